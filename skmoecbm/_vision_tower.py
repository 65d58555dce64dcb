"""The pass through open_clip's own vision transformer, with less work and fewer copies.

Equal to the module's own pass up to float noise. What it saves: of the last layer only the class
token is read, so only that is computed; activations are worked on in place; attention scores never
go to memory; QuickGELU's factor goes into the matrix products.
"""

import torch
from open_clip.transformer import (
    QuickGELU,
    ResidualAttentionBlock,
    Transformer,
    VisionTransformer,
)
from torch import nn
from torch.nn import functional as F

__all__ = ["all_tokens", "quick_forward", "speed_up"]

_QUICK = 1.702  # QuickGELU(x) = x * sigmoid(1.702 x)


def speed_up(visual):
    """Let a vision tower take the quick pass where it can; others are left as they are.

    Parameters
    ----------
    visual : torch.nn.Module
        In eval mode. Weights, hooks and what it returns stay as they are.

    Returns
    -------
    bool
        Whether it is a tower that the quick pass knows.
    """
    if not _is_known(visual):
        return False
    own_forward = visual.forward

    def forward(pixels):
        quick = _may_be_quick(visual, pixels)
        return quick_forward(visual, pixels) if quick else own_forward(pixels)

    visual.forward = forward
    return True


def quick_forward(visual, pixels):
    """Return the features of preprocessed images.

    Parameters
    ----------
    visual : open_clip.transformer.VisionTransformer
        One that `speed_up` knows.
    pixels : tensor of shape (n, 3, h, w), float32, on the CPU

    Returns
    -------
    tensor of shape (n, d), float32

    References
    ----------
    Radford et al. (2021), "Learning transferable visual models from natural language
    supervision", section 2.4; Dosovitskiy et al. (2021), "An image is worth 16x16 words",
    equations 1 to 4.
    """
    tokens = visual._embeds(pixels)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = _block(block, tokens)
    tokens = _block(last, tokens, only_first=visual.pool_type == "tok")
    pooled, _ = visual._pool(tokens)
    return pooled if visual.proj is None else pooled @ visual.proj


def all_tokens(visual, pixels):
    """Return what the last layer gives for every token, before the final norm and the pooling.

    Parameters
    ----------
    visual : open_clip.transformer.VisionTransformer
    pixels : tensor of shape (n, 3, h, w)

    Returns
    -------
    tensor of shape (n, 1 + P, w)
        By the quick pass where it can be.
    """
    tokens = visual._embeds(pixels)
    if not (_is_known(visual) and _may_be_quick(visual, pixels)):
        return visual.transformer(tokens)
    for block in visual.transformer.resblocks:
        tokens = _block(block, tokens)
    return tokens


def _may_be_quick(visual, pixels):
    # the switches of the moment decide, not those of the time of loading
    return not (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled(pixels.device.type)
        or pixels.device.type != "cpu"
        or pixels.dtype != torch.float32
        or visual.training
    )


def _is_known(visual):
    """Tell whether a tower consists of exactly the parts that `quick_forward` computes."""
    return (
        type(visual) is VisionTransformer
        and type(visual.transformer) is Transformer
        and visual.transformer.batch_first
        and visual.attn_pool is None
        and not visual.output_tokens
        and visual.pool_type in ("tok", "avg")
        and all(_is_known_block(block) for block in visual.transformer.resblocks)
        and all(weight.dtype == torch.float32 for weight in visual.parameters())
    )


def _is_known_block(block):
    if type(block) is not ResidualAttentionBlock:
        return False
    attention, mlp = block.attn, block.mlp
    return (
        type(attention) is nn.MultiheadAttention
        and attention.batch_first
        and attention.in_proj_weight is not None
        and attention.in_proj_bias is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and type(block.ls_1) is type(block.ls_2) is nn.Identity
        and list(dict(mlp.named_children())) == ["c_fc", "gelu", "c_proj"]
        and type(mlp.c_fc) is type(mlp.c_proj) is nn.Linear
        and type(mlp.gelu) in (nn.GELU, QuickGELU)
    )


def _block(block, tokens, only_first=False):
    """Return one layer's tokens, (n, t, w), or the first of them alone, (n, 1, w).

    Overwrites `tokens`, which belong to the pass.
    """
    n, _, width = tokens.shape
    mix = _first_of_attention if only_first else _attention
    mixed = mix(block.attn, block.ln_1(tokens))
    if only_first:
        tokens = tokens[:, :1].contiguous()
    stream = tokens.view(-1, width)
    _add_linear(stream, mixed, block.attn.out_proj)
    hidden = block.ln_2(stream)
    first, second = block.mlp.c_fc, block.mlp.c_proj
    if type(block.mlp.gelu) is QuickGELU:
        # 1.702 x sigmoid(1.702 x) is SiLU at 1.702 x: one step in place instead of three tensors
        hidden = torch.addmm(_QUICK * first.bias, hidden, first.weight.t(), alpha=_QUICK)
        _add_linear(stream, F.silu(hidden, inplace=True), second, alpha=1 / _QUICK)
    else:
        _add_linear(stream, block.mlp.gelu(first(hidden)), second)
    return stream.view(n, -1, width)


def _add_linear(stream, rows, linear, alpha=1.0):
    """Add alpha * rows Wᵀ + b to the residual stream, in place."""
    stream.addmm_(rows, linear.weight.t(), alpha=alpha).add_(linear.bias)


def _attention(attention, hidden):
    """Return the heads' mixtures of values, (n * t, w), before the output projection."""
    n, t, width = hidden.shape
    qkv = F.linear(hidden, attention.in_proj_weight, attention.in_proj_bias)
    heads = attention.num_heads
    q, k, v = qkv.view(n, t, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).reshape(-1, width)


def _first_of_attention(attention, hidden):
    """Return what `_attention` gives for the first token, (n, w), without keys and values.

    One query q meets a key as q·(K h + b) = (Kᵀq)·h + const, and the constant falls out of the
    softmax; its mixture of values is Σ a (V h + b) = V (Σ a h) + b. So the matrices K and V meet
    one row an image instead of one a token.
    """
    n, _, width = hidden.shape
    heads, depth = attention.num_heads, width // attention.num_heads
    w_q, w_k, w_v = attention.in_proj_weight.view(3, width, width)
    b_q, _, b_v = attention.in_proj_bias.view(3, width)
    q = F.linear(hidden[:, 0], w_q, b_q).view(n, heads, depth).transpose(0, 1)
    asked = (q @ w_k.view(heads, depth, width)).transpose(0, 1)  # (n, heads, w)
    weights = (asked @ hidden.transpose(1, 2) * depth**-0.5).softmax(dim=-1)
    seen = (weights @ hidden).transpose(0, 1)  # (heads, n, w)
    mixed = seen @ w_v.view(heads, depth, width).transpose(1, 2)  # (heads, n, depth)
    return mixed.transpose(0, 1).reshape(n, width) + b_v
