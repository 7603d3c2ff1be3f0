import torch

from utils.adam import Adam


def test_its_steps_are_those_of_torch(generator):
    """To the last digit, with rates that change and a variable that stays."""
    for betas in ((0.9, 0.999), (0.9, 0.99), (0.5, 0.999)):
        begin = {
            "U": torch.randn(7, 5, generator=generator),
            "c": torch.randn(7, generator=generator),
            "B": torch.randn(3, generator=generator),
        }
        ours = {name: value.clone() for name, value in begin.items()}
        theirs = {name: value.clone().requires_grad_() for name, value in begin.items()}
        rates = {"U": 0.03, "c": 0.2}
        groups = [{"params": [theirs[name]], "lr": rate} for name, rate in rates.items()]
        reference, optimiser = torch.optim.Adam(groups, betas=betas), Adam(ours, betas)
        for step in range(30):
            gradients = {
                name: 10.0 ** (step % 5 - 2) * torch.randn(value.shape, generator=generator)
                for name, value in begin.items()
            }
            falling = {name: rate * (1 - step / 40) for name, rate in rates.items()}
            for group, rate in zip(reference.param_groups, falling.values(), strict=True):
                group["lr"] = rate
            for name in rates:
                theirs[name].grad = gradients[name]
            reference.step()
            optimiser.step(gradients, falling)
            assert all(torch.equal(ours[name], theirs[name]) for name in begin)
        assert torch.equal(ours["B"], begin["B"]) and not torch.equal(ours["U"], begin["U"])
