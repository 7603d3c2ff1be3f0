"""Images by the names that a table may give them."""

import posixpath
from collections.abc import Iterator

from utils.datasets.roles import same_name
from utils.datasets.tree import ENDINGS, Folder, images_below


class Index:
    """The images below a folder by the names that a table may give them: relative to any folder on the
    way, with the folders above in front, with and without ending, in any case and Unicode form, with
    backslashes.
    """

    def __init__(self, folder: Folder):
        self.folder = folder
        self.names, self.left_out = images_below(folder)
        self._exact = {same_name(name): name for name in self.names}
        # None in the place of a name: two images have this form.
        self._whole: dict[str, str | None] = {}
        self._tails: dict[str, str | None] = {}
        for name in self.names:
            whole = same_name(name).casefold()
            for form in {whole, without_ending(whole)}:
                _note(self._whole, form, name)
                for tail in _tails(form):
                    _note(self._tails, tail, name)

    def find(self, given: str) -> str | None:
        """Return the image that is meant; None where there is none, or more than one."""
        path = _cleaned(given)
        if path in self._exact:
            return self._exact[path]
        path = path.casefold()
        if found := self._whole.get(path) or self._tails.get(path):
            return found
        return next((self._whole[tail] for tail in _tails(path) if tail in self._whole), None)

    def is_ambiguous(self, given: str) -> bool:
        return _cleaned(given).casefold() in self._tails and self.find(given) is None

    def is_whole(self, given: str) -> bool:
        """Tell whether it is a file's name with its ending, of a file that is there or of none."""
        if "." not in given:
            return False
        if without_ending(given) != given:
            return True
        found, last = self.find(given), posixpath.basename(_cleaned(given))
        return bool(found) and posixpath.basename(same_name(found)).casefold() == last.casefold()


def _note(names: dict[str, str | None], key: str, name: str) -> None:
    names[key] = name if names.get(key, name) == name else None


def _cleaned(path: str) -> str:
    path = posixpath.normpath(same_name(path).replace("\\", "/")).lstrip("/")
    while path.startswith("../"):
        path = path.removeprefix("../")
    return path


def without_ending(name: str) -> str:
    """Remove the ending of a picture; other dots belong to the name."""
    stem, ending = posixpath.splitext(name)
    return stem if ending.lower() in ENDINGS else name


def _tails(path: str) -> Iterator[str]:
    """Yield a/b/c, b/c and c."""
    while path:
        yield path
        path = path.partition("/")[2]
