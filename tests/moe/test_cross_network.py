"""The network of `CrossModalMoEClassifier` against plain loops, and the laws of attention."""

import math

import numpy as np
import pytest
import torch

from skmoecbm.moe import TokenFeatures
from skmoecbm.moe._cross_attention import attend, sinusoids
from skmoecbm.moe._cross_network import CrossNetwork, CrossShape, drop_streams
from skmoecbm.moe._cross_rows import StreamRows
from skmoecbm.moe._cross_streams import ColumnStream

N = 7


def shape_of(widths=(3, 4), **settings):
    settings = {
        "widths": tuple(widths),
        "n_outputs": 3,
        "width": 5,
        "n_experts": 4,
        "top_k": 2,
        "hidden": 6,
        "fusion": "attention",
        "pooling": "mean",
        "moe": True,
        "gating": "softmax",
    } | settings
    return CrossShape(**settings)


def network_of(shape, seed=0):
    """A network all of whose tensors are random: nothing is zero by chance of the start."""
    network = CrossNetwork(shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.7)
    return network


def some_tokens(seed=0, widths=(3, 4), n=N):
    """Rows of unlike lengths; row 2 lacks the second stream, row 3 the first."""
    rng = np.random.default_rng(seed)
    rows = [
        [rng.standard_normal((length, width)) for length in rng.integers(2, 7, n)]
        for width in widths
    ]
    if len(widths) == 2:
        rows[1][2] = rows[0][3] = None
    return TokenFeatures({f"stream{m}": tokens for m, tokens in enumerate(rows)})


def rows_of(features):
    device = torch.device("cpu")
    streams = list(features.streams.values())
    x = [StreamRows(s, np.zeros(s.width), np.ones(s.width), device) for s in streams]
    return x, torch.as_tensor(features.present)


def brute_force(network, row, positions=None):
    """Logits of one row, a list of tokens (T_m, d_m) or None, and how each stream looks at its
    partner, (T_o,): loop by loop, in numpy alone.
    """
    shape = network.shape
    w = {name: value.numpy() for name, value in network.state_dict().items()}
    d, n_streams = shape.width, len(shape.widths)

    def softmax(scores):
        e = np.exp(scores - np.max(scores))
        return e / e.sum()

    embedded = [None] * n_streams
    for m, tokens in enumerate(row):
        if tokens is None:
            continue
        embedded[m] = []
        for t, token in enumerate(tokens):
            place = t if positions is None else positions[m][t]
            wave = np.zeros(d)
            for i in range(d):
                rate = 10000.0 ** (-(i // 2) / ((d + 1) // 2))
                wave[i] = math.sin(place * rate) if i % 2 == 0 else math.cos(place * rate)
            u = w[f"projections.{m}"] @ token + w[f"offsets.{m}"] + w["gains"][m] * wave
            embedded[m].append(u)
    pooled, looked = [np.zeros(d) for _ in range(n_streams)], [0.0] * n_streams
    for m in range(n_streams):
        if embedded[m] is None:
            continue
        o = 1 - m if n_streams == 2 else m
        answers = []
        asking = embedded[m] if shape.pooling == "mean" else embedded[m][:1]
        for u in asking:
            answer = u
            if shape.fusion == "attention" and embedded[o] is not None:
                q = u @ w[f"queries.{m}"]
                scores = [q @ (v @ w[f"keys.{o}"]) / math.sqrt(d) for v in embedded[o]]
                looked[m] = looked[m] + softmax(np.array(scores)) / len(asking)
                for share, v in zip(softmax(np.array(scores)), embedded[o], strict=True):
                    answer = answer + share * (v @ w[f"values.{o}"])
            answers.append(answer)
        pooled[m] = np.mean(answers, axis=0)
    gamma = np.ones(n_streams)
    if shape.fusion == "attention" and n_streams == 2:
        gamma = 1 / (1 + np.exp(-(w["gates"] @ np.concatenate(pooled) + w["gate_offsets"])))
    gamma = gamma * [u is not None for u in embedded]
    fused = sum(g * h for g, h in zip(gamma / gamma.sum(), pooled, strict=True))
    if n_streams == 2 and sum(u is not None for u in embedded) == 1:
        fused = fused * np.exp(w["log_voice"][0])
    weights = np.ones(1)
    if shape.moe:
        absent = [float(u is None) for u in embedded] if n_streams == 2 else []
        seen = np.concatenate([fused, absent])
        scores = w["router.centres"] @ seen + w["router.bias"]
        best = sorted(range(shape.n_experts), key=lambda e: (-scores[e], e))[: shape.top_k]
        weights = np.zeros(shape.n_experts)
        weights[best] = softmax(scores[best])
        if shape.top_k == 1:
            weights[best] = softmax(scores)[best]
    answer = fused.copy()
    for e, weight in enumerate(weights):
        hidden = np.maximum(w["pool.w1"][e] @ fused + w["pool.b1"][e], 0)
        answer = answer + weight * (w["pool.w2"][e] @ hidden + w["pool.b2"][e])
    return w["head"] @ answer + w["intercept"], looked


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling": "cls"},
        {"fusion": "concat"},
        {"moe": False},
        {"fusion": "concat", "moe": False, "pooling": "cls"},
        {"top_k": 1},
        {"top_k": 4, "width": 8},
        {"widths": (4,)},
        {"widths": (4,), "fusion": "concat"},
    ],
)
def test_the_network_says_what_the_equations_say(settings):
    shape = shape_of(**settings)
    features, network = some_tokens(widths=shape.widths), network_of(shape)
    logits = network(*rows_of(features))[0].detach().numpy()
    expected = [brute_force(network, list(row.values())) for row in features]
    assert np.allclose(logits, [told for told, _ in expected], rtol=0, atol=1e-10)
    for m, found in enumerate(network.fuse(*rows_of(features)).looked_at):
        for shares, (_, looked) in zip(found.detach().numpy(), expected, strict=True):
            size = np.size(looked[m])
            assert np.allclose(shares[:size], looked[m], rtol=0, atol=1e-10)
            assert (shares[size:] == 0).all()


def test_columns_are_tokens_at_unit_vectors():
    values = np.random.default_rng(0).standard_normal((N, 4))
    network, device = network_of(shape_of(widths=(4,))), torch.device("cpu")
    stream = ColumnStream(values, np.ones(N, dtype=bool))
    x = [StreamRows(stream, np.zeros(4), np.ones(4), device)]
    logits = network(x, torch.ones(N, 1, dtype=torch.bool))[0].detach().numpy()
    expected = [brute_force(network, [np.diag(row)])[0] for row in values]
    assert np.allclose(logits, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_query_learns_from_two_keys_and_not_from_one(pooling):
    network = network_of(shape_of(pooling=pooling))
    rng = np.random.default_rng(0)
    for n_keys, learns in ((1, False), (2, True), (5, True)):
        features = TokenFeatures(
            {"a": rng.standard_normal((N, 4, 3)), "b": rng.standard_normal((N, n_keys, 4))}
        )
        network.zero_grad()
        network(*rows_of(features))[0].square().sum().backward()
        slope = network.queries[0].grad.abs().max(), network.keys[1].grad.abs().max()
        assert all((value > 1e-6) == learns for value in slope)
        if not learns:  # not small, but nothing: the weight of one key is 1 whatever the query
            assert max(slope) < 1e-13
        assert network.values[1].grad.abs().max() > 1e-6


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("widths", [(3, 4), (4,)])
def test_padding_and_other_rows_change_nothing(pooling, widths):
    features, network = some_tokens(1, widths), network_of(shape_of(widths, pooling=pooling))
    whole = network(*rows_of(features))[0]
    for i in range(N):
        alone = network(*rows_of(features[i : i + 1]))[0]
        assert torch.allclose(alone[0], whole[i], rtol=0, atol=1e-12)
    long = {
        name: [*features.select(name)[:], {name: np.ones((40, stream.width))}]
        for name, stream in features.streams.items()
    }
    more = TokenFeatures({name: [row[name] for row in rows] for name, rows in long.items()})
    assert torch.allclose(network(*rows_of(more))[0][:N], whole, rtol=0, atol=1e-12)


def test_what_stands_behind_the_mask_is_never_seen():
    class Filled(StreamRows):
        def padded(self):
            tokens, mask = super().padded()
            return tokens + 1e3 * ~mask[:, :, None], mask

        def __getitem__(self, rows):
            raise NotImplementedError

    features, network = some_tokens(2), network_of(shape_of())
    x, present = rows_of(features)
    other = [Filled(part.stream, part.mean, part.scale, part.device) for part in x]
    found = network(other, present)[0]
    assert torch.allclose(found, network(x, present)[0], rtol=0, atol=1e-10)
    network.zero_grad()
    network(other, present)[0].sum().backward()
    dirty = {name: value.grad.clone() for name, value in network.named_parameters()}
    network.zero_grad()
    network(x, present)[0].sum().backward()
    for name, value in network.named_parameters():
        assert torch.allclose(value.grad, dirty[name], atol=1e-8), name


def test_words_with_their_positions_may_come_in_any_order():
    rng = np.random.default_rng(0)
    network = network_of(shape_of())
    words, patches = rng.standard_normal((N, 6, 4)), rng.standard_normal((N, 5, 3))
    order = np.r_[0, 1 + rng.permutation(5)]  # the first stays: by contract it sums up
    asis = TokenFeatures({"a": patches, "b": words})
    mixed = TokenFeatures({"a": patches, "b": words[:, order]})
    places = [torch.arange(5)[None], torch.as_tensor(order)[None]]
    expected = network(*rows_of(asis))[0]
    found = network(*rows_of(mixed), places)[0]
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    moved = network(*rows_of(mixed))[0]  # without them order counts
    assert (moved - expected).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", ["attention", "concat"])
def test_an_absent_stream_has_no_weight_and_no_gradient(fusion):
    features, network = some_tokens(3), network_of(shape_of(fusion=fusion))
    x, present = rows_of(features)
    fused = network.fuse(x, present)
    shares = fused.shares.detach()
    assert shares[2].tolist() == [1.0, 0.0] and shares[3].tolist() == [0.0, 1.0]
    assert ((shares > 0) == present).all()
    assert torch.allclose(shares.sum(1), torch.ones(N, dtype=torch.float64))
    for looked in fused.looked_at:
        assert (looked[2] == 0).all() and (looked[3] == 0).all()
    masked = present.clone()
    masked[:, 1] = False
    network(x, masked)[0][[0, 1, 2, 4]].sum().backward()
    assert (network.projections[1].grad == 0).all()
    assert torch.isfinite(network.projections[0].grad).all()


def test_a_row_of_nothing_spoils_no_gradient():
    features, network = some_tokens(4), network_of(shape_of())
    x, present = rows_of(features)
    present[0] = False
    logits, _ = network(x, present)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(tensor.grad).all() for tensor in network.parameters())


def test_attention_sums_to_one_over_the_keys_that_are_there():
    rng = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(3, size, 4, generator=rng) * 30 for size in (2, 5))
    there = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    weights = attend(queries, keys, there)
    assert torch.allclose(weights.sum(2), torch.tensor([[1.0], [0.0], [1.0]]).expand(3, 2))
    assert (weights[~there[:, None].expand(3, 2, 5)] == 0).all()
    assert (weights[2, :, 0] == 1).all()


def test_positions_differ_and_do_not_end():
    waves = sinusoids(torch.arange(2000), 16)
    assert waves.shape == (2000, 16) and waves.abs().max() <= 1
    far = torch.cdist(waves[::7], waves[::7]) + torch.eye(len(waves[::7]))
    assert far.min() > 0.05
    assert sinusoids(torch.arange(3), 5).shape == (3, 5)
    assert sinusoids(torch.arange(3), 1)[:, 0].tolist() == pytest.approx([0, *np.sin([1, 2])])


def test_streams_are_dropped_one_at_a_time_and_only_where_both_are():
    present = torch.ones(20000, 2, dtype=torch.bool)
    present[:100, 0] = False
    kept = drop_streams(present, 0.4, torch.Generator().manual_seed(0))
    assert (kept[:100] == present[:100]).all() and kept.any(1).all()
    lost = (~kept[100:]).double().mean(0)
    assert lost.tolist() == pytest.approx([0.2, 0.2], abs=0.015)
    assert drop_streams(present, 0.0, None) is present
