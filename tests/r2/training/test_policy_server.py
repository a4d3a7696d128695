"""The policy server over real HTTP: a small model made in code, batches that change nobody's text, seeds, usage,
log-probabilities."""

import asyncio
import math
import re
import sys
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from r2.pool.servers.child_server import child_server

torch = pytest.importorskip("torch", reason="needs the extra `train`")

from r2.training.decoding import Generation, GenerationRequest, decode  # noqa: E402
from r2.training.server import PolicyServer, load_server  # noqa: E402
from r2.training.tiny import make_model, make_tokenizer, save_tiny  # noqa: E402

WORDS = [f"w{chr(97 + i // 10)}{chr(97 + i % 10)}" for i in range(60)] + ["solve", "plan"]
TEXTS = [" ".join(WORDS)]


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    tokenizer = make_tokenizer(TEXTS)
    return make_model(tokenizer, seed=0), tokenizer


def run(tiny: tuple[Any, Any], bodies: Sequence[dict[str, Any]], *, at_once: bool = True) -> list[dict[str, Any]]:
    """Replies in order, with `status` added."""

    @asynccontextmanager
    async def serving():
        server = PolicyServer(*tiny, "tiny@v1")
        runner = web.AppRunner(server.application())
        await runner.setup()
        worker = asyncio.create_task(server.work())
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1/chat/completions"
        worker.cancel()
        await runner.cleanup()

    async def ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> dict[str, Any]:
        async with session.post(url, json=body) as reply:
            return {**await reply.json(), "status": reply.status}

    async def ask_all() -> list[dict[str, Any]]:
        async with serving() as url, aiohttp.ClientSession() as session:
            if at_once:
                return list(await asyncio.gather(*(ask(session, url, body) for body in bodies)))
            return [await ask(session, url, body) for body in bodies]

    return asyncio.run(ask_all())


def body(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "solve"}, {"role": "user", "content": text}]
    return {"model": "tiny@v1", "messages": messages, "max_tokens": 12, "temperature": 0, **fields}


def texts(replies: Sequence[dict[str, Any]]) -> list[str]:
    return [reply["choices"][0]["message"]["content"] for reply in replies]


VARIED = [body(" ".join(WORDS[i : i + 1 + 3 * i]), max_tokens=6 + i % 9) for i in range(16)]


def test_a_batch_gives_everyone_the_text_they_get_alone(tiny: tuple[Any, Any]):
    together, alone = run(tiny, VARIED), run(tiny, VARIED, at_once=False)
    assert texts(together) == texts(alone)
    assert len(set(texts(together))) > 3
    assert [r["usage"] for r in together] == [r["usage"] for r in alone]


def test_a_greedy_text_is_what_generate_writes(tiny: tuple[Any, Any]):
    model, tokenizer = tiny
    [reply] = run(tiny, [VARIED[5]])
    text = tokenizer.apply_chat_template(VARIED[5]["messages"], add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    mask = torch.ones_like(prompt)
    out = model.generate(prompt, attention_mask=mask, max_new_tokens=VARIED[5]["max_tokens"], do_sample=False)
    new = out[0, prompt.shape[1] :]
    assert texts([reply]) == [tokenizer.decode(new, skip_special_tokens=True)]
    assert reply["usage"] == {
        "prompt_tokens": prompt.shape[1],
        "completion_tokens": len(new),
        "total_tokens": prompt.shape[1] + len(new),
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_sampled_texts_depend_on_their_seed_and_not_on_their_company(tiny: tuple[Any, Any]):
    sampled = [body("wab wac wad", temperature=1.0, seed=seed) for seed in (1, 2, 3)]
    together, alone = texts(run(tiny, [*sampled, *VARIED]))[:3], texts(run(tiny, sampled, at_once=False))
    assert together == alone
    assert len(set(alone)) == 3
    assert texts(run(tiny, [body("wab wac wad", temperature=1.0)])) == texts(
        run(tiny, [body("wab wac wad", temperature=1.0)])
    )


def test_logprobs_are_those_of_the_text_and_their_whole_sums_to_one(tiny: tuple[Any, Any]):
    n_words = len(tiny[1])
    [reply] = run(tiny, [body("wae waf", logprobs=True, top_logprobs=20, max_tokens=5)])
    content = reply["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == texts([reply])[0]
    for entry in content:
        listed = [other["logprob"] for other in entry["top_logprobs"]]
        assert len(listed) == 20
        assert listed == sorted(listed, reverse=True)
        assert entry["top_logprobs"][0] == {"token": entry["token"], "logprob": entry["logprob"]}, "greedy: the first"
        assert sum(map(math.exp, listed)) <= 1 + 1e-6
    everything = decode_one(tiny, GenerationRequest([7, 8, 9], 1, n_top=n_words))
    assert sum(math.exp(value) for _, value in everything.alternatives[0]) == pytest.approx(1, abs=1e-5)


def decode_one(tiny: tuple[Any, Any], prompt: GenerationRequest, ends: Sequence[int] = ()) -> Generation:
    got: list[Generation] = []
    decode(tiny[0].eval(), [prompt], ends, lambda _, reply: got.append(reply))
    return got[0]


def test_a_reply_ends_at_its_end_mark_or_at_its_limit(tiny: tuple[Any, Any]):
    cut = decode_one(tiny, GenerationRequest([7, 8, 9], 6))
    assert (len(cut.ids), cut.n_generated, cut.is_cut) == (6, 6, True)
    first_of_its_kind = next(i for i, token in enumerate(cut.ids) if token not in cut.ids[:i] and i > 0)
    ended = decode_one(tiny, GenerationRequest([7, 8, 9], 6), ends=[cut.ids[first_of_its_kind]])
    assert ended.ids == cut.ids[:first_of_its_kind]
    assert (ended.n_generated, ended.is_cut) == (first_of_its_kind + 1, False)


def test_the_shares_of_sampled_tokens_are_their_probabilities(tiny: tuple[Any, Any]):
    counts: dict[int, int] = {}
    prompts = [GenerationRequest([7, 8, 9], 1, temperature=1.0, seed=seed) for seed in range(2000)]
    decode(tiny[0].eval(), prompts, [], lambda _, r: counts.__setitem__(r.ids[0], counts.get(r.ids[0], 0) + 1))
    [likeliest, second, *_] = decode_one(tiny, GenerationRequest([7, 8, 9], 1, n_top=2)).alternatives[0]
    for token, logprob in (likeliest, second):
        share = math.exp(logprob)
        assert counts[token] / 2000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 2000))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"messages": []}, "expected a list of messages"),
        ({"messages": "hello"}, "not a chat completion request"),
        ({"stream": True}, "stream = True"),
        ({"response_format": {"type": "json_schema"}}, "guided = false"),
        ({"messages": [{"role": "user", "content": "wab " * 1100}]}, "maximum context length is 1024"),
        ({"top_logprobs": 21, "logprobs": True}, r"top_logprobs 0\.\.20"),
    ],
)
def test_what_it_does_not_do_is_a_bad_request(tiny: tuple[Any, Any], wrong: dict[str, Any], message: str):
    [reply] = run(tiny, [body("wab", **wrong)])
    assert reply["status"] == 400
    assert re.search(message, reply["error"]["message"])


def test_a_limit_past_the_context_is_cut_to_it(tiny: tuple[Any, Any]):
    prompt = PolicyServer(*tiny, "tiny").read(b'{"messages":[{"role":"user","content":"wab wac"}],"max_tokens":5000}')
    assert len(prompt.ids) + prompt.max_new_tokens == 1024


def test_as_a_script_it_serves_a_folder_and_ends_with_the_block(tmp_path: Path):
    save_tiny(tmp_path / "weights", TEXTS, seed=0)

    async def ask() -> tuple[list[str], list[str]]:
        args = [sys.executable, "-m", "r2.training.server", "--policy", str(tmp_path / "weights")]
        async with child_server(args, "policy:weights", tmp_path) as url, aiohttp.ClientSession() as session:
            async with session.get(f"{url}/models") as reply:
                names = [model["id"] for model in (await reply.json())["data"]]
            replies = await asyncio.gather(*(_post(session, url, b) for b in VARIED[:4]))
            return names, texts(replies)

    names, answered = asyncio.run(ask())
    assert names == ["weights"]
    here = load_server(tmp_path / "weights", tmp_path)
    assert answered == texts(run((here.model, here.tokenizer), VARIED[:4]))
    assert "M parameters loaded" in (tmp_path / "weights.log").read_text("utf-8")


async def _post(session: aiohttp.ClientSession, url: str, asked: dict[str, Any]) -> dict[str, Any]:
    async with session.post(f"{url}/chat/completions", json=asked) as reply:
        return await reply.json()
