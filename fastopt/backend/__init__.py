"""The engine room: works go in, programs come out, with the same bits from either engine."""
