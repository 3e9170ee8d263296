from __future__ import annotations

import networks
import torch
from torch import nn

from nash_qat.network.average import Average
from nash_qat.network.network import Network
from nash_qat.quant.presets import preset


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)


def test_average_follows_the_formula_and_is_lent_for_a_block() -> None:
    network = _network()
    average = Average(network, 0.4)
    expected = network[0].weight.detach().clone()
    for update in range(1, 12):
        with torch.no_grad():
            network[0].weight.normal_()
            network[1].running_mean.fill_(update)
        average.update(network)
        decay = min(0.4, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * network[0].weight.detach()
    torch.testing.assert_close(average.tensors["0.weight"], expected)
    own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with average.within(network):
        torch.testing.assert_close(network[0].weight.detach(), expected)
        assert 9 < float(network[1].running_mean[0]) < 11
    assert all(torch.equal(own[name], tensor) for name, tensor in network.state_dict().items())


def test_average_survives_saving() -> None:
    network = _network()
    average, again = Average(network, 0.9), Average(_network(), 0.9)
    with torch.no_grad():
        network[0].weight.normal_()
    average.update(network)
    again.restore(average.tensors)
    assert all(torch.equal(average.tensors[name], tensor) for name, tensor in again.tensors.items())


def test_average_follows_parameters_that_loading_a_state_replaced() -> None:
    network = Network(networks.parsed(networks.NASH), preset("w4a4"))
    average, before = Average(network, 0.5), dict(network.named_parameters())
    changed = {
        name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(changed)
    replaced = [name for name, parameter in network.named_parameters() if parameter is not before[name]]
    assert replaced  # or this test would hold nothing
    average.update(network)
    share = 1 - 2 / 11  # of the first update
    for name, tensor in average.tensors.items():
        torch.testing.assert_close(tensor, changed[name] - 1 + share, msg=name)


def test_average_has_the_whole_state_of_a_network() -> None:
    network = Network(networks.parsed(networks.STRIDED_SIDE_OPS), preset("v3"))
    average = Average(network, 0.0)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.normal_()
    for _ in range(3):
        average.update(network)
    state = network.state_dict()
    assert average.tensors.keys() == {name for name, tensor in state.items() if tensor.is_floating_point()}
    assert all(torch.equal(tensor, state[name]) for name, tensor in average.tensors.items())
