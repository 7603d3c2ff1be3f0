import numpy as np

from benchmarks import recipes


def test_recipes_prints_a_table_for_each_pair(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recipes, "PUBLISHED_RECIPE", ["--ITERATIONS", "20"])
    rng = np.random.default_rng(0)
    for name in ("A", "B"):
        x, y = rng.normal(size=(600, 3)), np.arange(600) % 2
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x[:60], y_test=y[:60])
    pair = f"features:{tmp_path}/A.npz,features:{tmp_path}/B.npz"
    recipes.main(["--PAIRS", pair, "--SEEDS", "1", "--RECIPE", "--ITERATIONS", "20"])
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line.endswith("/1")]
    assert names == list(recipes.QUANTITIES)
