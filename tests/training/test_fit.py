import torch

from imprint.training.fit import epoch_order


def test_a_whole_pass_deals_every_image_once():
    torch.manual_seed(0)
    order = epoch_order(torch.zeros(100), 100, hard_fraction=0.5)
    assert order.sort().values.tolist() == list(range(100))
    assert order.tolist() != list(range(100))


def test_beyond_a_pass_none_comes_twice_as_often():
    counts = epoch_order(torch.zeros(10), 25, hard_fraction=0.0).bincount(minlength=10)
    assert counts.sum() == 25
    assert set(counts.tolist()) == {2, 3}


def test_the_hardest_come_surely_and_others_by_chance():
    torch.manual_seed(0)
    losses = torch.arange(1000.0)
    orders = torch.stack([epoch_order(losses, 100, hard_fraction=0.6) for _ in range(200)])
    assert (orders.sort(dim=1).values.diff(dim=1) > 0).all()
    counts = orders.flatten().bincount(minlength=1000)
    assert (counts[-60:] == 200).all()
    assert abs(counts[:470].float().mean() / counts[470:-60].float().mean() - 1) < 0.05
    assert counts[:-60].max() < 30  # 200 × 40 / 940 is 8.5


def test_images_not_seen_yet_come_first():
    losses = torch.tensor([5.0, torch.inf, 4.0, torch.inf])
    assert epoch_order(losses, 2, hard_fraction=1.0).sort().values.tolist() == [1, 3]
