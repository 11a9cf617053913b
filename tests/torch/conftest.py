"""What the tests of ``fastopt.torch`` share: nothing of this folder is collected without torch."""

import pytest

pytest.importorskip("torch.optim", reason="torch is not installed")
