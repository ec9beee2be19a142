"""One engine of vLLM in this process, which the requests of all threads share."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from secrets import token_hex
from threading import Condition
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from unspoken.engines.store import STORES, Held, Load, Store
from unspoken.errors import IncompatibleModels, MissingExtra, WorkerError

__all__ = ["Asked", "Engine", "check_alone"]


@dataclass(eq=False)
class Asked:
    """A request, and what has come of it.

    ids: what it reads, with any id where a cache is loaded. vectors: (S, W) in place of ids. load:
    the cache in front. save: whether the cache of all that it reads is kept. salt: who may share
    blocks with it. sampling: vLLM's settings. written: the tokens so far. scores: for each id after
    the first its log probability and rank, if they were asked for. first: seconds until a token.
    """

    ids: Sequence[int]
    sampling: dict[str, Any]
    vectors: Tensor | None = None
    load: Load | None = None
    held: Held | None = None
    save: bool = False
    salt: str = ""
    name: str = ""
    written: list[int] = field(default_factory=list[int])
    scores: list[Any] = field(default_factory=list[Any])
    finish: str = ""
    first: float = 0.0
    begun: float = 0.0

    @property
    def over(self) -> bool:
        return bool(self.finish)


class Engine:
    """Steps of an engine, taken by whichever thread waits for one.

    Threads that wait take turns, and each step serves the requests of all. A store keeps the caches
    that it loads. vLLM keeps some of its state once for a process, so there is one engine at a
    time.
    """

    def __init__(self, folder: str, store: Store, **options: Any) -> None:
        self.store, self._id = store, token_hex(8)
        self._turn, self._stepping = Condition(), False
        self._new: list[Asked] = []
        self._asked: dict[str, Asked] = {}
        self._dropped = deque[str]()
        self._numbers, self._error = count(), ""
        self._llm: Any = None
        STORES[self._id] = store
        try:
            self._llm = _started(folder, self._id, options)
        except BaseException:
            self.close()
            raise

    @property
    def config(self) -> Any:
        """vLLM's configuration."""
        return self._llm.vllm_config

    def close(self) -> None:
        """Give back what the engine holds. Who still waits gets a `WorkerError`."""
        with self._turn:
            self._error = self._error or "the engine was closed; make another VllmModel"
            self._turn.wait_for(lambda: not self._stepping)
            llm, self._llm = self._llm, None
        if STORES.pop(self._id, None) is None:  # it was closed before
            return
        if llm is not None:
            llm.engine_core.shutdown()
        import_module("vllm.distributed.kv_transfer").ensure_kv_transfer_shutdown()
        import_module("vllm.distributed").cleanup_dist_env_and_memory()

    def answer(self, asked: Sequence[Asked], watch: Callable[[], None] = lambda: None) -> None:
        """Wait until all requests are over. What is not over when `watch` raises is aborted.

        watch: called in this thread after steps; it may end requests by `drop`. Raises
        `WorkerError` if the engine fails.
        """
        with self._turn:
            for one in asked:
                one.name, one.begun = f"r{next(self._numbers)}", perf_counter()
            self._new += asked
        try:
            watch()
            while not all(one.over for one in asked):
                self._step(asked)
                watch()
            if any(one.finish in ("abort", "error") for one in asked):
                raise WorkerError("the engine gave up a request; ask again, or start it anew")
        finally:
            self.drop([one for one in asked if not one.over])

    def drop(self, asked: Sequence[Asked]) -> None:
        """End requests before they are over."""
        with self._turn:
            for one in asked:
                one.finish = "dropped"
                self._dropped.append(one.name)
            if not (self._stepping or self._error):
                self._abort()

    def _step(self, asked: Sequence[Asked]) -> None:
        """Take a step, or wait for one that another thread takes."""
        with self._turn:
            if self._stepping:
                self._turn.wait()
                return
            if self._error:
                raise WorkerError(self._error)
            self._stepping = True
            new, self._new = self._new, []
        try:
            self._serve(new)
        except Exception as error:
            self._error = f"the engine failed: {error!r}; make another VllmModel"
            raise WorkerError(self._error) from error
        finally:
            with self._turn:
                self._stepping = False
                self._turn.notify_all()

    def _abort(self) -> None:
        """Take what was dropped out of the engine."""
        while self._dropped:
            name = self._dropped.popleft()
            if self._asked.pop(name, None):
                self._llm.abort_request([name])
                self.store.saved.pop(name, None)

    def _serve(self, new: Sequence[Asked]) -> None:
        for one in new:
            if not one.over:
                self._asked[one.name] = one
                self._llm.add_request(one.name, _prompt(one), _sampling(one))
        self._abort()
        for output in self._llm.step():
            one = self._asked.get(output.request_id)
            if one is not None and not one.over:
                self._take(one, output)

    def _take(self, one: Asked, output: Any) -> None:
        (found,) = output.outputs
        one.first = one.first or perf_counter() - one.begun
        one.written += found.token_ids
        if output.prompt_logprobs is not None:
            one.scores = output.prompt_logprobs[1:]
        if output.finished:
            one.finish = found.finish_reason or "stop"
            del self._asked[one.name]


def _prompt(one: Asked) -> dict[str, Any]:
    salt = {"cache_salt": one.salt} if one.salt else {}
    if one.vectors is not None:
        return {"prompt_embeds": one.vectors, **salt}
    return {"prompt_token_ids": list(one.ids), **salt}


def _sampling(one: Asked) -> Any:
    told: dict[str, Any] = {}
    if one.load is not None:
        told["load"] = one.load
    if one.save:
        told["save"] = one.name
    kind = import_module("vllm.sampling_params")
    return kind.SamplingParams(
        detokenize=False,
        output_kind=kind.RequestOutputKind.DELTA,
        extra_args={"kv_transfer_params": told} if told else None,
        **one.sampling,
    )


def check_alone() -> None:
    """Raise `MissingExtra` without vLLM, and `IncompatibleModels` beside another engine."""
    with _quiet():
        try:
            state = import_module("vllm.distributed.kv_transfer")
        except ImportError as error:
            raise MissingExtra(
                f"engine 'vllm' needs vLLM, which cannot be imported ({error}); make an "
                "environment that has it with: make vllm"
            ) from error
    if state.has_kv_transfer_group():
        raise IncompatibleModels(
            "this process has an engine of vLLM already, and vLLM takes one; share it between "
            "agents, close it, or run the other agent elsewhere with executor=shared_memory"
        )


def _started(folder: str, store: str, options: dict[str, Any]) -> Any:
    """The engine of a folder. Raises `IncompatibleModels` for what vLLM does not take."""
    connector = {
        "kv_connector": "UnspokenConnector",
        "kv_connector_module_path": "unspoken.engines.connector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"store": store},
    }
    with _quiet():
        engine = import_module("vllm.v1.engine.llm_engine").LLMEngine
        try:
            arguments = import_module("vllm.engine.arg_utils").EngineArgs(
                model=folder,
                skip_tokenizer_init=True,
                enable_prompt_embeds=True,
                distributed_executor_backend="uni",
                disable_log_stats=True,
                kv_transfer_config=import_module("vllm.config").KVTransferConfig(**connector),
                **options,
            )
            return engine.from_engine_args(arguments, enable_multiprocessing=False)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise IncompatibleModels(f"vLLM does not take {folder!r}: {error}") from error


@contextmanager
def _quiet() -> Generator[None]:
    """While an engine is made: in this process, with warnings alone, and torch's threads kept."""
    wanted = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if "VLLM_LOGGING_LEVEL" not in os.environ:
        wanted["VLLM_LOGGING_LEVEL"] = "ERROR"
    before = {name: os.environ.get(name) for name in wanted}
    threads = torch.set_num_threads
    os.environ.update(wanted)
    try:
        yield
    finally:
        torch.set_num_threads = threads  # vLLM replaces it on CPUs
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
