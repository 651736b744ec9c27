from imprint.models.networks import build_network, tutorial
from imprint.models.summary import summarise


def test_the_lessons_summary():
    layers = summarise(tutorial(1, 28, 28, 10), (1, 28, 28))
    assert [(layer.type, layer.output_shape, layer.parameters) for layer in layers] == [
        ("Conv2D", (None, 24, 24, 30), 780),
        ("MaxPooling2D", (None, 12, 12, 30), 0),
        ("Conv2D", (None, 10, 10, 15), 4_065),
        ("Dropout", (None, 10, 10, 15), 0),
        ("Flatten", (None, 1500), 0),
        ("Dense", (None, 128), 192_128),
        ("Dense", (None, 50), 6_450),
        ("Dense", (None, 10), 510),
    ]
    assert sum(layer.parameters for layer in layers) == sum(layer.trainable for layer in layers) == 203_933


def test_first_and_last_layer_follow_the_images():
    layers = summarise(tutorial(3, 32, 40, 7), (3, 32, 40))
    assert layers[0].parameters == 3 * 25 * 30 + 30
    assert layers[4].output_shape == (None, 12 * 16 * 15)
    assert layers[-1].parameters == 50 * 7 + 7


def test_running_averages_are_not_trainable():
    layers = summarise(build_network("quick", 1, (28, 28), 10), (1, 28, 28))
    norm = next(layer for layer in layers if layer.type == "BatchNormalization")
    assert (norm.parameters, norm.trainable) == (4 * 32, 2 * 32)
