import numpy as np
import torch

from imprint.features import features, nearest
from imprint.layers import Ensemble
from imprint.predict import predict_probabilities


def test_the_last_layer_decides_by_them(model, digits):
    pixels = digits.pixels[:20]
    found = features(model.net, pixels, model.spec)
    assert torch.allclose(found.norm(dim=1), torch.ones(20))
    with torch.no_grad():
        directions = (found @ model.net[-1].weight).numpy()
    # Scaled to length 1 and without the last layer's bias they give other numbers, but mostly the same answer.
    same = directions.argmax(axis=1) == predict_probabilities(model.net, pixels, model.spec).argmax(axis=1)
    assert same.mean() > 0.9


def test_nearest_are_scikit_learns(model, digits):
    from sklearn.neighbors import NearestNeighbors

    found = features(model.net, digits.pixels[:700], model.spec)
    places, distances = nearest(found[600:], found[:600], 3)
    theirs, positions = NearestNeighbors(n_neighbors=3).fit(found[:600].numpy()).kneighbors(found[600:].numpy())
    assert np.allclose(distances, theirs, atol=1e-3)
    assert (places == positions).mean() > 0.99


def test_an_ensembles_are_its_members_together(model, digits):
    pixels = digits.pixels[:5]
    one = features(model.net, pixels, model.spec)
    two = features(Ensemble([model.net, model.net]), pixels, model.spec)
    assert two.shape == (5, 2 * one.shape[1])
    assert torch.allclose(two @ two.T, one @ one.T, atol=1e-5)


def test_fewer_than_asked_for():
    assert nearest(torch.eye(2), torch.eye(2)[:1], 3)[0].tolist() == [[0], [0]]
