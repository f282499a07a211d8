"""The way in: attach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mi_probe.binning import Binning
from mi_probe.hooks.attached import AttachedProbe
from mi_probe.hooks.batch import CountOn
from mi_probe.hooks.names import HookedModel, require_model
from mi_probe.probe import Probe, load_probe
from mi_probe.shares import Share

__all__ = ["attach"]


def attach(
    model: HookedModel,
    probe: Probe | str | Path = "dimension_pairs",
    *,
    edges: Mapping[str, Binning] | None = None,
    memory: float | None = None,
    count_on: CountOn = "auto",
    share: Share | None = None,
) -> AttachedProbe:
    """Attach a probe to a TransformerLens model; it counts while your own forward passes run.

    Your hooks and the model's outputs are untouched: the logits are bit-equal with and without a probe. Use it as a context
    manager, or call ``detach()`` yourself.

    Parameters
    ----------
    model : TransformerBridge, HookedTransformer or RemoteBridge
        Loaded by TransformerLens or `mi_probe.load_model`; compiled by ``torch.compile`` or not.
    probe : Probe, str or path
        What to measure: a `Probe`, the name of a ready-made one, or a TOML file.
    edges : mapping of hook point -> Binning, optional
        Edges to use from the first token on, such as the ``binnings`` of another run. Counts with the same edges can be added up.
    memory : float, optional
        Bytes that the probe may take while it counts. By default what is free, without swapping, within the container's limit.
        More than that is for those who know that it will be there: ``float("inf")`` asks nothing.
    count_on : {"auto", "device", "cpu"}
        Where activations become codes and codes counts. "auto": on the CPU by the compiled kernels if the activations are there,
        else on their own device by torch, where counts stay until they are read. They are the same counts. "device" takes torch
        on any device; "cpu" copies activations of a GPU. Second moments, listed pairs, pairs between hook points, and the lags of
        a generation's tokens that come one by one are counted on the CPU in any case.
    share : Share, optional
        Keep the tables of this share of the pairs alone, in one of several processes that exchange the codes of their passes, as
        `mi_probe.accumulate` has them do (``split_by="pairs"``). It takes edges.

    Returns
    -------
    AttachedProbe
        With ``tokens_seen``, ``counts``, ``estimate()``, ``save(path)``, ``status()``, ``pause()``, ``reattach()``, ``detach()``.

    Raises
    ------
    HookPointError
        The model lacks a hook point, a pattern matches nothing, or the edges are of other hook points. Later, in a forward pass:
        a hook point gives something else than one row of numbers a token.
    MemoryRefusedError
        The counts of a text of any length would not fit; the message says what would. It comes at once for the residual stream,
        in the first forward pass for other hook points, and once more when tables are made, where memory has gone meanwhile. The
        forward pass that it comes in is not counted, and those before it stay as they are.
    ProbeError, RoomError
        The probe's file is not valid, or not there.

    Warns
    -----
    MIProbeWarning
        Training mode; a hook that did not fire or was taken off; a forward pass that was not counted.

    Examples
    --------
    >>> import mi_probe
    >>> model = mi_probe.load_model("coffee-gpt2")
    >>> with mi_probe.attach(model, mi_probe.Probe(layers=[0, 12])) as probe:
    ...     _ = model("Turkish coffee is made in a small copper pot, and it is served with the grounds.")
    >>> result = probe.estimate()
    >>> list(result)
    ['hidden_states.0', 'hidden_states.12']
    """
    require_model(model)
    whole = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    return AttachedProbe(whole, probe if isinstance(probe, Probe) else load_probe(probe), edges, memory, count_on, share)
