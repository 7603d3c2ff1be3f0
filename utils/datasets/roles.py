"""Which folders hold the splits: how people and tools call training, test and validation data."""

import unicodedata
from collections.abc import Iterable

TRAINING, TEST, VALIDATION = ROLES = ("training", "test", "validation")
WORDS = {
    TRAINING: "train training trainings trn trained entrainement apprentissage entrenamiento treino "
    "treinamento addestramento allenamento обучение обучающая тренировка 训练 訓練 学習 훈련 학습",
    TEST: "test tests testing tst holdout heldout prueba pruebas teste testes prova "
    "тест тестовая 测试 測試 テスト 테스트",
    VALIDATION: "val valid validation validate dev devel development eval evaluation validierung "
    "validacion validacao validazione валидация 验证 驗證 検証 검증",
}
# What a name may have around its word: seg_train, train_images, Test-Set, TestDaten, imgs.val, 训练集.
FILLERS = (
    "dataset datasets data set sets split images image imgs img pictures photos samples folder seg "
    "daten bilder satz 集 数据"
)


def same_name(name: str) -> str:
    """Put a name into the form that two file systems, or two programs, give it alike (Unicode's NFC)."""
    return unicodedata.normalize("NFC", name)


def _letters(name: str) -> str:
    """Reduce it to letters, without marks, case, digits and separators."""
    decomposed = unicodedata.normalize("NFKD", name).casefold()
    return "".join(letter for letter in decomposed if letter.isalpha())


_ROLE_OF = {_letters(word): role for role, words in WORDS.items() for word in words.split()}
_FILLERS = sorted(map(_letters, FILLERS.split()), key=len, reverse=True)


def role_of(name: str) -> str | None:
    """Tell the split that a folder, or a cell of a table, of this name is: one of `ROLES`, or None."""
    text = _letters(name)
    while text and text not in _ROLE_OF:
        shorter = next(_without_a_filler(text), None)
        if shorter is None:
            return None
        text = shorter
    return _ROLE_OF.get(text)


def _without_a_filler(text: str) -> Iterable[str]:
    for filler in _FILLERS:
        if text.endswith(filler):
            yield text.removesuffix(filler)
        elif text.startswith(filler):
            yield text.removeprefix(filler)
