"""Adapters: a transformers model and an endpoint say what they are asked, by their own library's and server's numbers."""

import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from protocol_models import TEXT, Bigram

from groundup.data import Document
from groundup.errors import GroundupError, UsageError
from groundup.evaluate.compress import compress, decompress
from groundup.evaluate.endpoint import EndpointModel
from groundup.evaluate.protocol import LanguageModel, Predictor, Ranker, likeliest
from groundup.evaluate.text import score_documents


@pytest.fixture(scope="module")
def llama(tokenizer, tmp_path_factory):
    """A random Llama of transformers, with our tokenizer saved for it."""
    transformers = pytest.importorskip("transformers")
    from groundup.evaluate.transformers_model import TransformersModel

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder / "tokenizer.json")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|endoftext|>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 24}
    config = transformers.LlamaConfig(vocab_size=tokenizer.vocab_size, initializer_range=0.5, **sizes)
    return TransformersModel(transformers.LlamaForCausalLM(config), theirs, name="llama")


def test_a_transformers_model_is_scored_as_by_one_pass_over_each_text(llama):
    from groundup.evaluate.transformers_model import pack

    assert isinstance(llama, LanguageModel) and isinstance(llama, Ranker) and isinstance(llama, Predictor)
    long = np.array([*llama.prefix, *llama.encode("the dog saw the cat on")])
    contexts = [np.array(llama.prefix), long, np.array([5]), long, long[:-1], long]
    targets = [llama.encode(text) for text in ("the dog saw the cat", " sat", " on", " the mat; the", " sat; the dog", " saw")]
    assert any(len(p.members) > 2 for p in pack([np.concatenate(pair)[:-1] for pair in zip(contexts, targets, strict=True)]))
    for context, target, nats, ranks in zip(
        contexts, targets, llama.log_probs(contexts, targets), llama.ranks(contexts, targets), strict=True
    ):
        whole = torch.from_numpy(np.concatenate((context, target)))[None]
        with torch.no_grad():
            p = torch.log_softmax(llama.model(whole).logits[0].double(), -1)[len(context) - 1 : -1]
        own = p.gather(1, torch.from_numpy(target)[:, None])
        np.testing.assert_allclose(nats, own[:, 0], atol=1e-5)
        np.testing.assert_array_equal(ranks, (p > own).sum(1))
    with pytest.raises(UsageError, match="predicts no token from nothing"):
        llama.log_probs([np.zeros(0, np.int64)], [np.array([1])])


def test_a_transformers_model_slides_its_window_writes_and_codes(llama):
    documents = [Document("a", TEXT[:200].encode()), Document("b", b"the cat")]
    windows, wide = score_documents(llama, documents), score_documents(llama, documents, seq_len=24, stride=1)
    assert windows.context == "windows of 24 tokens, stride 12" and windows.bits[1] == pytest.approx(wide.bits[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own
        one, two = llama.sample(["the cat", "the dog saw"], max_tokens=5, temperature=0)
        assert llama.sample(["the cat"], max_tokens=5, temperature=0) == [one]
        rows = llama.sample(["the cat", "the dog saw"], max_tokens=5, seed=3)
        assert rows == [llama.sample([prompt], max_tokens=5, seed=3 + i)[0] for i, prompt in enumerate(["the cat", "the dog saw"])]
        drawn = llama.sample(["the dog saw"] * 400, max_tokens=1, temperature=0.7)
    context = np.array([*llama.prefix, *llama.encode("the dog saw")])
    first = llama.log_probs([context] * llama.vocab_size, [np.array([i]) for i in range(llama.vocab_size)])
    best = int(np.argmax([x[0] for x in first]))
    assert two.startswith(llama.decode(np.array([best]))) or best in llama.prefix
    p = np.exp(np.array([x[0] for x in first]) / 0.7)
    expected = p[best] / p.sum()
    assert abs(drawn.count(two[: len(llama.decode(np.array([best])))]) / 400 - expected) < 4 * np.sqrt(expected / 400)
    assert likeliest(llama, [context], [np.array([best])])[0]
    text = TEXT[:150].encode()
    assert decompress(llama, compress(llama, text).data) == text


@pytest.fixture
def server():
    """A completions server on the loopback over a bigram of two-character tokens' first letters: gives offsets, echo and errors."""
    model = Bigram(TEXT.encode())

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = 200, None
            if body["model"] == "broken":
                status, answer = 500, {"error": "out of memory"}
            elif self.path.endswith("/chat/completions"):
                answer = {"choices": [{"message": {"content": "you said: " + body["messages"][0]["content"]}}]}
            elif body.get("echo") and body["model"] != "mute":
                text = body["prompt"]
                tokens = np.concatenate(([256], model.encode(text)))
                starts, places, log_p, top = 0, [], [], []
                for at, character in enumerate(text):  # a token a character
                    n = len(character.encode())
                    p = np.log(model.table[tokens[starts : starts + n], tokens[starts + 1 : starts + n + 1]]).sum()
                    places.append(at)
                    log_p.append(None if body["model"] == "no start" and at == 0 else p)
                    top.append({"x": float(np.log(model.table[tokens[starts]].max()))})
                    starts += n
                answer = {"choices": [{"text": text, "logprobs": {"token_logprobs": log_p, "text_offset": places, "top_logprobs": top}}]}
            else:
                answer = {"choices": [{"text": " the cat. And"}]}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()
        thread.join()


def test_an_endpoint_scores_as_the_model_behind_it(server):
    served, model = EndpointModel(server, "bigram"), Bigram(TEXT.encode())
    assert isinstance(served, LanguageModel) and isinstance(served, Ranker)
    documents = [Document("a", TEXT[:99].encode()), Document("b", "caf\u00e9 \u65e5\u672c the".encode())]
    np.testing.assert_allclose(score_documents(served, documents).bits, score_documents(model, documents).bits, rtol=1e-9)
    context, target = model.encode("the c"), model.encode("at sat")
    np.testing.assert_allclose(
        served.log_probs([context], [target])[0], model.log_probs([np.array([256, *context])], [target])[0], rtol=1e-9
    )
    expected = likeliest(model, [np.array([256, *context])], [model.encode("at")])
    assert likeliest(served, [context], [model.encode("at")]) == expected
    assert served.sample(["x"], max_tokens=5, stop=["."]) == [b" the cat"]
    assert EndpointModel(server, "m", chat=True).sample(["hello"], max_tokens=5) == [b"you said: hello"]


def test_an_endpoint_that_cannot_says_so(server):
    tokens = np.array([116])
    for name, message in [("mute", "gives no log-probabilities"), ("no start", "says nothing of the first token")]:
        with pytest.raises(UsageError, match=message):
            EndpointModel(server, name).log_probs([tokens[:0]], [tokens])
    with pytest.raises(GroundupError, match=r"answered 500 .*out of memory"):
        EndpointModel(server, "broken").sample(["x"], max_tokens=1)
    with pytest.raises(GroundupError, match="is the server up"):
        EndpointModel("http://127.0.0.1:9/v1", "x").sample(["x"], max_tokens=1)
    with pytest.raises(UsageError, match="UTF-8 text only, and byte 1"):
        EndpointModel(server, "x").encode(b"a\xff")
