"""One hook at one place of a model: put on, looked after, taken off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mi_probe.hooks.passes import Native

__all__ = ["Hook"]


class Hook:
    """A hook of ours on a hook point or on a module.

    Through ``HookPoint.add_hook``, since some models and remote engines serve only hook points that TransformerLens knows to be
    hooked; permanent, since others are taken off by ``reset_hooks()``.

    Parameters
    ----------
    site : HookPoint or module
    function : callable (activation, *, hook)
        Returns None, so that the activation stays as it is.
    is_module : bool
        Whether the site is a module, whose output is taken, and no HookPoint.
    """

    def __init__(self, site: Any, function: Callable[..., None], *, is_module: bool = False) -> None:
        self.site = site
        self._lens_handle: Any = None
        if is_module:
            self._handle = site.register_forward_hook(lambda _module, _args, output: function(output))
        else:
            before = {id(handle) for handle in site.fwd_hooks}
            site.add_hook(function, dir="fwd", is_permanent=True)  # returns the handle in the newest versions only
            self._lens_handle = next(handle for handle in site.fwd_hooks if id(handle) not in before)
            self._handle = self._lens_handle.hook
        # What TransformerLens registers is a function, which a deep copy of the model shares: the copy would feed this probe.
        site._forward_hooks[self._handle.id] = Native(site._forward_hooks[self._handle.id])

    @property
    def alive(self) -> bool:
        """Whether it is still on its site."""
        return self._handle.id in self.site._forward_hooks

    def place(self, when: str) -> None:
        """Move to the front of the site's hooks, or to the end; the others keep their order."""
        hooks = self.site._forward_hooks
        if len(hooks) > 1 and self.alive:
            last = when == "after"
            if next(reversed(hooks) if last else iter(hooks)) != self._handle.id:
                hooks.move_to_end(self._handle.id, last=last)

    def remove(self) -> None:
        """Take just this one off, whatever others did."""
        self._handle.remove()
        if self._lens_handle is not None:
            self.site.fwd_hooks[:] = [handle for handle in self.site.fwd_hooks if handle is not self._lens_handle]
