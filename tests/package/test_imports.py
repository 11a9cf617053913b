"""No import circle, neither of modules nor of rooms: then every import goes down, and none runs back up."""

import pytest
from imports import Import, imports, modules, room


def circle(arrows: dict[str, dict[str, Import]]) -> list[Import]:
    """The arrows of a circle, or nothing. ``arrows`` has those that leave each place, by where they lead."""
    finished: set[str] = set()

    def walk(place: str, places: list[str], path: list[Import]) -> list[Import]:
        if place in places:
            return path[places.index(place) :]
        if place not in finished:
            for to, arrow in arrows.get(place, {}).items():
                found = walk(to, [*places, place], [*path, arrow])
                if found:
                    return found
            finished.add(place)
        return []

    return next(filter(None, (walk(place, [], []) for place in sorted(arrows))), [])


def between_modules(found) -> dict[str, dict[str, Import]]:
    arrows: dict[str, dict[str, Import]] = {module: {} for module in modules()}
    for each in found:
        if each.imported != each.importer:
            arrows.setdefault(each.importer, {}).setdefault(each.imported, each)
            # What imports a module of another package runs that package's face first.
            face = each.imported.rpartition(".")[0]
            if face.count(".") and not each.importer.startswith(f"{face}.") and each.importer != face:
                arrows[each.importer].setdefault(face, each)
    return arrows


def between_rooms(found) -> dict[str, dict[str, Import]]:
    arrows: dict[str, dict[str, Import]] = {room(module): {} for module in modules()}
    for each in found:
        if room(each.importer) != room(each.imported):
            arrows.setdefault(room(each.importer), {}).setdefault(room(each.imported), each)
    return arrows


def words(found: list[Import]) -> str:
    return "; ".join(map(str, found))


def test_modules_import_in_one_direction():
    found = circle(between_modules(imports()))
    assert not found, f"modules import each other in a circle: {words(found)}"


def test_rooms_import_in_one_direction():
    found = circle(between_rooms(imports()))
    assert not found, f"rooms import each other in a circle: {words(found)}"


@pytest.mark.parametrize("command", ["bench", "train", "landscape", "jax", "sklearn", "torch"])
def test_commands_and_doors_stand_beside_each_other(command):
    """Who needs one of them need not install what another needs; only the command line knows them."""
    others = {"bench", "train", "landscape", "jax", "sklearn", "torch", "cli"} - {command}
    inside = [each for each in imports() if room(each.importer) == command]
    assert inside or command not in map(room, modules())
    found = [each for each in inside if room(each.imported) in others and (command, room(each.imported)) not in ALLOWED]
    assert not found, words(found)


#: The benchmark of whole training steps compares PyTorch's optimizers with ours, and pictures of ways show training.
ALLOWED = {("bench", "torch"), ("landscape", "train")}


def test_a_circle_is_found():
    one = Import("fastopt.rule", "fastopt.rules.sgd", ("SGD",), 3)
    found = circle(between_modules((*imports(), one)))
    assert one in found and len(found) == 2
    found = circle(between_rooms((*imports(), one)))
    assert one in found and len(found) == 2
