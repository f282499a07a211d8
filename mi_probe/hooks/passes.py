"""Forward passes of one model as they begin and end, whoever runs them: by call, by run_with_cache, in generation, compiled.

The forward method of the model is wrapped on the instance. A torch hook would not do: none is called when Ctrl-C ends a pass,
some libraries take all hooks off before each call, and TransformerLens' run_with_hooks goes around those of the model itself.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from mi_probe.errors import InputError, MemoryRefusedError
from mi_probe.hooks.arguments import cache_of, cached_past, has_own_numbers, input_tokens, real_of
from mi_probe.hooks.generation import Generation, generation_of
from mi_probe.hooks.names import HookedModel, inner_of
from mi_probe.ledger import NO_TOKENS, STAND_INS, UNREADABLE_MASK

if TYPE_CHECKING:
    import torch

__all__ = ["Listener", "Native", "Pass", "Watch", "compile_anew"]


class Pass:
    """A forward pass under way.

    Attributes
    ----------
    arguments : dict
        Of the forward method, by name.
    tokens : tensor, shape (batch, position), or None
        None until they are known, and for good if the pass has none.
    real : tensor, shape (batch, past + position), bool, or None
        Which are not padding.
    repeated, finished : tensor, shape (batch, position), bool, or None
        In generation: tokens fed before, and tokens of rows that have ended.
    generation : Generation or None
        The one whose step it is.
    past : int or tensor, shape (batch, past), bool
        Length of the cached past, or which of it is not padding.
    refused : str or None
        Why this pass cannot be counted, in general; ``detail`` says it of this one.
    batches : mapping of Listener -> what it keeps
    """

    def __init__(self, arguments: dict[str, Any], generation: Generation | None) -> None:
        self.arguments = arguments
        self.generation = generation
        self.past: torch.Tensor | int = 0
        self.tokens: torch.Tensor | None = None
        self.real: torch.Tensor | None = None
        self.repeated: torch.Tensor | None = None
        self.finished: torch.Tensor | None = None
        self.refused: str | None = None
        self.detail = ""
        self.batches: weakref.WeakKeyDictionary[Listener, Any] = weakref.WeakKeyDictionary()

    def refuse(self, reason: str, detail: str = "") -> None:
        """This pass cannot be counted."""
        self.refused, self.detail = reason, detail or reason


class Listener(Protocol):
    """What a `Watch` tells of each forward pass."""

    def pass_begins(self, run: Pass) -> None: ...

    def tokens_are_known(self, run: Pass) -> None: ...

    def pass_ends(self, run: Pass, error: BaseException | None) -> None: ...


class Native:
    """A hook that belongs to one model: in a deep copy of the model it does nothing."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _nothing

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_it_is, (_nothing,)


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """What a copied hook does."""


def _as_it_is(thing: Any) -> Any:
    """For pickle, which rebuilds a thing by a call."""
    return thing


class _Method:
    """A method of one object, wrapped on that object; a deep copy of the object gets the method as it was."""

    def __init__(self, owner: Any, name: str, around: Callable[..., Any], watch: Watch) -> None:
        self.__wrapped__ = getattr(owner, name)
        functools.update_wrapper(self, self.__wrapped__, updated=())  # the signature, too: Hugging Face looks at it
        self.watch = watch
        self._around = around
        self._owner, self._name = weakref.ref(owner), name
        self._before = owner.__dict__.get(name, self)  # self: there was none on the instance
        owner.__dict__[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._around(self.__wrapped__, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.__wrapped__, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_it_is, (self.__wrapped__,)

    def remove(self) -> bool:
        """Put back what was there. Below a wrapper of someone else it has to stay, without effect: then False."""
        owner = self._owner()
        if owner is None or owner.__dict__.get(self._name) is not self:
            return False
        if self._before is self:
            del owner.__dict__[self._name]
        else:
            owner.__dict__[self._name] = self._before
        return True


_joining = threading.RLock()


class Watch:
    """Tells its listeners of each forward pass of one model. All probes of a model share one; `join` finds or makes it."""

    def __init__(self, owner: Any) -> None:
        import torch

        self._owner = weakref.ref(owner)
        self._parameters = list(inspect.signature(owner.forward).parameters)
        self._listeners: weakref.WeakSet[Any] = weakref.WeakSet()
        self._models: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.RLock()  # a probe may be collected, and leave, while its own thread is in here
        self._local = threading.local()  # forward passes of several threads do not mix
        self._methods: list[_Method] = []
        self._embed: dict[int, Any] = {}
        # What a compiler cannot trace, and need not.
        untraced: Callable[[Callable[..., None]], Callable[..., None]] = torch.compiler.disable
        self._begins, self._ends = untraced(self._begin), untraced(self._end)

    # -- lifetime ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _on(model: HookedModel) -> Watch:
        """The watch of this model, made if there is none."""
        owner = _owner(model)
        method = owner.__dict__.get("forward")
        while method is not None:
            if isinstance(method, _Method):
                return method.watch
            method = getattr(method, "__wrapped__", None)
        return Watch(owner)

    @staticmethod
    def join(listener: Listener, model: HookedModel) -> Watch:
        """Tell this listener of passes from now on. A pass under way is not its own."""
        with _joining:  # two threads must not make two watches of one model
            watch = Watch._on(model)
            with watch._lock:
                watch._listeners.add(listener)
                watch._cover(model)
        compile_anew()
        return watch

    def leave(self, listener: Listener | None) -> None:
        """Tell it no more; the last one takes everything off the model. None if it was collected."""
        with self._lock:
            if listener is not None:
                self._listeners.discard(listener)
            if list(self._listeners):  # one that is being collected is in it, but not listed
                return
            self._methods = [m for m in reversed(self._methods) if not m.remove() and self._stands(m)][::-1]
            for handle in self._embed.values():
                handle.remove()
            self._embed.clear()

    @property
    def forward_is_watched(self) -> bool:
        """Whether the wrapped forward method is still there. Under a wrapper of someone else that cannot always be seen."""
        owner = self._owner()
        return any(self._stands(m) for m in self._methods if m._name == "forward" and m._owner() is owner)

    @property
    def embedding_is_watched(self) -> bool:
        """Whether the hook on HookedTransformer's embedding is still there; True if there need not be one."""
        return all(handle.id in (handle.hooks_dict_ref() or {}) for handle in self._embed.values())

    @staticmethod
    def _stands(wrapped: _Method) -> bool:
        owner = wrapped._owner()
        method = None if owner is None else owner.__dict__.get(wrapped._name)
        while method is not None and method is not wrapped:
            method = getattr(method, "__wrapped__", None)
        return method is wrapped

    def _cover(self, model: HookedModel) -> None:
        owner, inner = self._owner(), inner_of(model)
        there = {(id(m._owner()), m._name) for m in self._methods if self._stands(m)}

        def wrap(target: Any, name: str, around: Callable[..., Any]) -> None:
            if callable(getattr(target, name, None)) and (id(target), name) not in there:
                self._methods.append(_Method(target, name, around, self))

        wrap(owner, "forward", self._run)
        wrap(owner, "_replicate_for_data_parallel", self._replicate)
        if inner is not None:
            wrap(model, "forward", functools.partial(self._call, list(inspect.signature(model.forward).parameters)))
            wrap(owner, "generate", self._generate)
        elif hasattr(model, "embed"):  # HookedTransformer turns strings into tokens inside: they are seen on their way in
            handle = self._embed.get(id(model.embed))
            if handle is None or handle.id not in (handle.hooks_dict_ref() or {}):
                self._embed[id(model.embed)] = model.embed.register_forward_pre_hook(Native(self._embedding))
        wrap(model, "generate", functools.partial(self._generate, model=weakref.ref(model)))
        wrap(model, "generate_stream", functools.partial(self._generate_stream, model=weakref.ref(model)))
        self._models.add(model)

    # -- what runs in this thread ------------------------------------------------------------------------------------

    @property
    def _stack(self) -> list[Pass]:
        """The passes under way: a pass inside a pass, as a hook may run one, has its own place."""
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        stack: list[Pass] = self._local.stack
        return stack

    @property
    def current(self) -> Pass | None:
        """The innermost pass under way in this thread."""
        return self._stack[-1] if self._stack else None

    @property
    def _generations(self) -> list[Generation]:
        if not hasattr(self._local, "generations"):
            self._local.generations = []
        generations: list[Generation] = self._local.generations
        return generations

    def _generation(self, depth: int) -> Generation | None:
        """The generation whose steps are passes at this depth; a pass that a hook runs inside a step is none of its steps."""
        innermost = self._generations[-1] if self._generations else None
        return innermost if innermost is not None and innermost.depth == depth else None

    # -- wrapped methods ---------------------------------------------------------------------------------------------

    def _run(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._listeners:
            return forward(*args, **kwargs)
        self._begins(args, kwargs)
        try:
            output = forward(*args, **kwargs)
        except BaseException as error:
            self._ends(error)
            raise
        self._ends(None)
        return output

    def _call(self, parameters: list[str], forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A bridge's own forward method, outside the model's: the side on which it was told to pad is seen nowhere else."""
        before = getattr(self._local, "padding_side", None)
        self._local.padding_side = (dict(zip(parameters, args, strict=False)) | kwargs).get("padding_side")
        try:
            return forward(*args, **kwargs)
        finally:
            self._local.padding_side = before

    def _replicate(self, replicate: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """DataParallel copies attributes as they are: with ours, its copies would run the model they were made from."""
        replica = replicate(*args, **kwargs)
        for name in [name for name, value in vars(replica).items() if isinstance(value, _Method)]:
            del replica.__dict__[name]
        return replica

    def _generate(
        self, generate: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], model: Callable[[], Any] | None = None
    ) -> Any:
        generation, kwargs = generation_of(generate, args, kwargs, len(self._stack), model() if model else None)
        with self._in(generation):
            return generate(*args, **kwargs)

    def _generate_stream(
        self, generate: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], model: Callable[[], Any]
    ) -> Iterator[Any]:
        generation, kwargs = generation_of(generate, args, kwargs, len(self._stack), model())
        stream = generate(*args, **kwargs)
        try:
            while True:
                generation.depth = len(self._stack)
                with self._in(generation):  # not while the caller has the word
                    try:
                        item = next(stream)
                    except StopIteration:
                        return
                yield item
        finally:
            stream.close()

    @contextmanager
    def _in(self, generation: Generation) -> Iterator[None]:
        self._generations.append(generation)
        try:
            yield
        finally:
            self._generations.remove(generation)

    # -- a forward pass ----------------------------------------------------------------------------------------------

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = dict(zip(self._parameters, args, strict=False)) | kwargs
        run = Pass(arguments, self._generation(len(self._stack)))
        self._stack.append(run)
        try:
            with self._lock:
                listeners = list(self._listeners)
            for listener in listeners:
                listener.pass_begins(run)
            run.past = cached_past(arguments)
            tokens = self._tokens_of(run)
            if tokens is not None:
                self._see(run, tokens)
        except BaseException:
            self._stack.remove(run)  # it has not begun
            raise

    def _end(self, error: BaseException | None) -> None:
        run = self._stack.pop()
        if run.generation is not None and error is None:
            run.generation.step_ended(run.tokens, run.real, run.finished)
        refusals = []
        for listener in list(run.batches):
            try:
                listener.pass_ends(run, error)
            except MemoryRefusedError as refusal:  # one probe's; the others count
                refusals.append(refusal)
        if refusals:
            raise refusals[0]

    def _tokens_of(self, run: Pass) -> Any:
        """Token ids that are known when a pass begins."""
        import torch

        given = run.arguments
        if not self._embed:
            return input_tokens(given, next(iter(self._models), None))
        if given.get("start_at_layer") is None:  # HookedTransformer: its own input is what is embedded
            return None
        generation, residual = run.generation, given.get("input")
        fed = None if generation is None else generation.fed
        if generation is not None and fed is not None and given["start_at_layer"] == 0 and torch.is_tensor(residual):
            positions = residual.shape[1]
            if positions <= fed.shape[1]:  # its generate() embeds beforehand
                before = (generation.prompt_length or 0) if generation.embedded else 0
                run.past = before + fed.shape[1] - positions
                return fed[:, -positions:]
        run.refuse(NO_TOKENS)
        return None

    def _embedding(self, _module: Any, args: tuple[Any, ...]) -> None:
        if not args:
            return
        generation = self._generation(len(self._stack))
        if generation is not None:
            generation.note_embedded(args[0])
        elif self._stack and self._stack[-1].tokens is None and not self._stack[-1].refused:
            self._see(self._stack[-1], args[0])  # the first call of a pass embeds its input

    def _see(self, run: Pass, tokens: Any) -> None:
        import torch

        if not torch.is_tensor(tokens) or tokens.is_floating_point() or tokens.ndim not in (1, 2):
            return
        if not has_own_numbers(tokens):
            run.refuse(STAND_INS)
            return
        tokens = tokens[None] if tokens.ndim == 1 else tokens
        run.tokens = tokens
        model = next(iter(self._models), None)
        side, bos = getattr(self._local, "padding_side", None), run.arguments.get("prepend_bos")
        prepends = bos if isinstance(bos, bool) else bool(getattr(getattr(model, "cfg", None), "default_prepend_bos", True))
        with torch.no_grad():
            if run.generation is not None:
                cache, known = cache_of(run.arguments), run.generation.columns
                if known and not torch.is_tensor(run.past) and not run.past and cache is not None and tokens.shape[1] < known:
                    run.past = known  # a state-space model keeps no keys to count
                length = run.past.shape[1] if torch.is_tensor(run.past) else run.past
                if not run.generation.takes(tokens, length, cache):
                    run.generation = None
            try:
                tokenizer = getattr(model, "tokenizer", None)
                run.real = real_of(tokens, run.arguments, run.past, run.generation, tokenizer, side, prepends)
            except InputError as error:
                run.refuse(UNREADABLE_MASK, str(error).rstrip("."))
                return
            if run.generation is not None:
                past = run.real.shape[1] - tokens.shape[1]
                run.repeated, run.finished = run.generation.step(tokens, past)
        for listener in list(run.batches):
            listener.tokens_are_known(run)


def compile_anew() -> None:
    """Let go of what torch.compile has compiled: it looks at hooks when it compiles, and not again when hooks come or go."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.utils.counters["frames"]["total"]:
        dynamo.reset()


def _owner(model: HookedModel) -> Any:
    """Whose forward method every pass goes through: the model inside a bridge, the model itself otherwise."""
    inner = inner_of(model)
    owner = model if inner is None else inner
    return getattr(owner, "_orig_mod", owner)  # torch.compile keeps the module it compiled
