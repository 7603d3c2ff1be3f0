"""Which files in a folder are lists of labels, and which images each is about."""

from dataclasses import dataclass, field
from pathlib import Path

from utils.datasets.index import Index
from utils.datasets.roles import role_of
from utils.datasets.sheets import OBJECTS, SHEETS
from utils.datasets.tables import LabelTable
from utils.datasets.tree import Folder
from utils.errors import InputError

MOST_BYTES = 100 * 2**20  # of a table that nobody named
# sample_submission.csv, predictions.csv: labels that stand for nothing, or are a model's.
NOT_OURS = ("submission", "prediction", "predicted")


@dataclass
class Tables:
    """Those in a folder: `lists` of labels; others by their names, with the reason why they are none.
    `unread`: the names of those that could not be read.
    """

    lists: list[LabelTable] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)


def tables_in(folder: Folder) -> Tables:
    """Read the tables that lie in `folder` itself."""
    found, indices = Tables(), {}
    for name in folder.others:
        path = folder.path / name
        if path.suffix.lower() not in (*SHEETS, *OBJECTS) or any(w in name.lower() for w in NOT_OURS):
            continue
        try:
            if path.stat().st_size > MOST_BYTES:
                raise InputError(f"{path} is larger than {MOST_BYTES // 2**20} MiB")
            table = table_about(path, folder, indices, named=False)
        except InputError as error:
            found.unused[name] = str(error).replace(f"{path}", name)
            found.unread.append(name)
            continue
        if table.unfit:
            found.unused[name] = table.unfit
        else:
            found.lists.append(table)
    return found


def table_about(
    path: Path, top: Folder, indices: dict[Folder, Index], column: str | None = None, named: bool = True
) -> LabelTable:
    """Read a table, of the images of the folder below `top` in which it finds most of its files: the one
    it lies in, that of the split it is called after (train/ for train.csv), or `top`. The narrower comes
    first: two splits may hold files of the same names. `indices`: those that there are already.
    """
    tables = []
    for folder in _folders_meant(path, top):
        if folder not in indices:
            indices[folder] = Index(folder)
        tables.append(LabelTable(path, indices[folder], column, named))
    if len(tables) == 1:
        return tables[0]
    return max(tables, key=lambda table: table.count)


def _folders_meant(path: Path, top: Folder) -> list[Folder]:
    role = role_of_table(path)
    of_role = [folder for name, folder in top.folders.items() if role and role_of(name) == role]
    place, above = top, path.parent.resolve()
    if above.is_relative_to(top.path.resolve()):
        for part in above.relative_to(top.path.resolve()).parts:
            place = place.folders.get(part, top)
            if place is top:
                break
    own = [place] if place is not top else []
    return [*own, *(of_role if len(of_role) == 1 else []), top]


def role_of_table(path: Path) -> str | None:
    """Tell the split that a table is of: train.csv, test_labels.csv."""
    words = ("labels", "label", "metadata", "annotations", "list", "classes")
    name = path.stem.lower()
    for word in words:
        name = name.removesuffix(word).removeprefix(word)
    return role_of(name)
