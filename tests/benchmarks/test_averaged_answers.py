import numpy as np

from averaged_answers import ALONE, averaged


def test_answers_are_averaged_over_mirrors_models_or_both() -> None:
    said = np.random.default_rng(0).dirichlet(np.ones(5), size=(3, 2, 7))
    ways = averaged(said)
    assert {way: values.shape for way, values in ways.items()} == dict.fromkeys(ways, (3, 7, 5))
    alone, mirrored, together, both = ways.values()
    np.testing.assert_array_equal(ways[ALONE], alone)
    np.testing.assert_allclose(alone[1], said[1, 0])
    np.testing.assert_allclose(mirrored[2], (said[2, 0] + said[2, 1]) / 2)
    np.testing.assert_allclose(together[0], said[:, 0].mean(axis=0))
    np.testing.assert_allclose(together[0], together[2])
    np.testing.assert_allclose(both[0], said.reshape(6, 7, 5).mean(axis=0))
