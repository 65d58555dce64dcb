"""Heads of other libraries among the `experts` of a mixture: what `clone` and `fit` start from."""

from skmoecbm._foreign import ForeignHead
from skmoecbm._foreign_saving import pack_foreign
from skmoecbm._foreign_steps import take_foreign
from skmoecbm._single import ConceptBottleneckClassifier
from skmoecbm.exceptions import FormatError

__all__ = ["ForeignTemplate", "pack_templates", "unpack_templates"]


class ForeignTemplate:
    """What stands in `experts`, in a file, where a head of another library was.

    Parameters
    ----------
    index : int
        Of the template, or of the expert whose fitted head it is.
    is_fitted : bool
        Whether it is that of an expert: a frozen classifier is the head itself.
    """

    def __init__(self, index, is_fitted=False):
        self.index, self.is_fitted = index, is_fitted


def pack_templates(model, arrays, prefix, trusted):
    """Return `experts` with templates in the place of heads of others, and their nodes."""
    experts, nodes = model.experts, []
    if not isinstance(experts, list | tuple):
        return experts, nodes
    fitted = {
        id(head.estimator): e for e, head in enumerate(model.heads_) if type(head) is ForeignHead
    }
    packed = []
    for entry in experts:
        if len(entry) == 3 and not isinstance(entry[1], ConceptBottleneckClassifier):
            name, head, columns = entry
            place = fitted.get(id(head))
            if place is None:
                place = len(nodes)
                what = f"The head of expert {name!r}"
                nodes.append(pack_foreign(what, head, arrays, f"{prefix}.{place}.skops", trusted))
                template = ForeignTemplate(place)
            else:
                template = ForeignTemplate(place, is_fitted=True)
            entry = (name, template, columns)
        packed.append(entry)
    return type(experts)(packed), nodes


def unpack_templates(model, node, arrays, prefix, trusted):
    """Put the heads of others back into the `experts` of a mixture."""
    found = [
        take_foreign(one, arrays, f"{prefix}.{i}.skops", trusted)
        for i, one in enumerate(node.templates)
    ]
    heads = [head.estimator if type(head) is ForeignHead else None for head in model.heads_]
    experts, used = model.experts, set()
    if isinstance(experts, list | tuple):
        put = []
        for entry in experts:
            if isinstance(entry, list | tuple) and len(entry) == 3:
                name, head, columns = entry
                if type(head) is ForeignTemplate:
                    there = heads if head.is_fitted is True else found
                    good = type(head.index) is int and 0 <= head.index < len(there)
                    if not good or there[head.index] is None:
                        raise FormatError("config.json names a head that is not there.")
                    if there is found:
                        used.add(head.index)
                    entry = (name, there[head.index], columns)
            put.append(entry)
        model.experts = type(experts)(put)
    if used != set(range(len(found))):
        raise FormatError("config.json has a head that no expert names; save the model again.")
