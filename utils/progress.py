"""Progress bars: on terminals alone, and gone when they are done."""

from functools import partial

from tqdm import tqdm

progress_bar = partial(tqdm, disable=None, leave=False)
