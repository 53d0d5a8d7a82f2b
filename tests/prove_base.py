"""A real base model through the whole path: data, training by each preset, evaluation, both ways of answering, another device.

    python -m tests.prove_base --base FOLDER --data CARDS.jsonl [--preset seed --preset t4 --preset fast] [--output outputs/proof]

The cards are split by `data prepare`; each preset trains on the same rows and is measured on the held-out part. The table goes to
standard output, the figures to OUTPUT/PRESET.json. Anybody's base and cards will do; docs/results.md says which ran there.
"""

import argparse
import json
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

HELD_OUT, VALIDATED = 0.2, 0.03  # shares of the cards
LONGEST = 200  # tokens an answer may have
COMPARED, COMPARED_TOKENS = 40, 32  # questions for decoder against library, and tokens of each answer


def run(*words: object) -> float:
    """Runs a command of ours, its output on ours; the seconds that it took."""
    started = time.perf_counter()
    log.info("$ python -m %s", " ".join(map(str, words)))
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True)
    return time.perf_counter() - started


def python(code: str) -> Any:
    """The JSON in the last line that a program prints, in a process of its own: Unsloth patches what it finds."""
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


# The decoder's greedy answers and the library's, and how likely each finds the other's: equal, or apart by rounding alone.
SAME = """
from app import prepare_environment
prepare_environment()
import json, torch
from app.engine.answer import GenerationRequest
from app.engine.generation import LocalGenerator
from app.engine.model import load
opened = []
def open_it(name):
    opened.append(load(name, {device!r}))
    return opened[-1]
generator = LocalGenerator(open_it, {adapter!r})
generator.wait_until_ready()
with_decoder = opened[0].decoder is not None
questions = [json.loads(line) for line in open({questions!r}, encoding="utf-8")][:{count}]
def answers():
    found = []
    for row in questions:
        for adapter in (True, False):
            request = GenerationRequest(row["messages"][:1], use_adapter=adapter, max_new_tokens={longest}, seed=0)
            answer = generator.submit(request)
            found.append(("".join(answer), answer.finish_reason))
    return found
ours = answers()
opened[0].decoder = None
library = answers()
generator.close()
print(json.dumps({{
    "decoder": with_decoder, "dtype": opened[0].dtype, "n": len(ours), "equal": sum(a == b for a, b in zip(ours, library)),
    "probe": opened[0].probe.__dict__,
}}))
"""


# The base in its own chat template with the same system text, on the questions and by the measures of the evaluation.
AT_ITS_BEST = """
from app import prepare_environment
prepare_environment()
import dataclasses, json
from pathlib import Path
from finetune.data.tokens import open_tokenizer
from finetune.evaluation.evaluate import Options, open_adapter, question_sets
from finetune.evaluation.metrics import bootstrap_mean, rouge_l, rounded
from finetune.evaluation.scoring import predict
options = Options(data=[{data!r}], suite="full", limit={limit!r}, max_new_tokens={longest})
loaded = open_adapter({adapter!r})
found = next(found for found in question_sets(loaded, options) if not found.control)
own = dataclasses.replace(loaded, tokenizer=open_tokenizer({base!r}, None, "native"))
predictions = predict(own, found.items, use_adapter=False, max_new_tokens={longest})
scores = [rouge_l(prediction.text, item.reference) for prediction, item in zip(predictions, found.items, strict=True)]
mean = rounded(bootstrap_mean(scores))
print(json.dumps(mean | {{"ended": sum(p.ended for p in predictions)}}))
"""


def same_answers(adapter: Path, questions: Path, device: str, count: int) -> dict[str, Any]:
    """Greedy answers by the decoder and by the library, the adapter on and off."""
    return python(SAME.format(device=device, adapter=str(adapter), questions=str(questions), count=count, longest=COMPARED_TOKENS))


def prove(preset: str, arguments: argparse.Namespace, data: Path, device: str) -> dict[str, Any]:
    """Trains and measures one preset."""
    output = arguments.output / preset
    shutil.rmtree(output, ignore_errors=True)
    settings = [word for setting in ["train_size=1.0", *arguments.set] for word in ("--set", setting)]
    seconds = run("finetune", "train", "--config", preset, "--base", arguments.base, "--data", data, "--output", output, *settings)
    result: dict[str, Any] = {"preset": preset, "seconds": seconds, "same": {}}
    kept = arguments.output / f"{preset}.json"
    result["steps"] = json.loads((output / "run.json").read_text())["loss_history"][-1]["step"]
    limit = ["--limit", arguments.limit] if arguments.limit else []
    run("finetune", "evaluate", "--adapter", output, "--data", data, "--suite", "full", "--max-new-tokens", LONGEST, *limit)
    evaluation = json.loads((output / "evaluation.json").read_text())
    key = next(entry["key"] for entry in evaluation["sets"] if not entry["control"])
    measures = evaluation["measures"].items()
    result["measures"] = {name.split("/", 1)[1]: value for name, value in measures if name.startswith(f"answers:{key}/")}
    kept.write_text(json.dumps(result, indent=1))
    asked = {"data": str(data), "limit": arguments.limit, "longest": LONGEST, "adapter": str(output), "base": str(arguments.base)}
    result["base_at_its_best"] = python(AT_ITS_BEST.format(**asked))
    kept.write_text(json.dumps(result, indent=1))
    for place, count in {"cpu": arguments.on_cpu, device: COMPARED}.items():
        result["same"][place] = same_answers(output, data / "test.jsonl", place, count)
        kept.write_text(json.dumps(result, indent=1))
    return result


def show(mean: dict[str, Any]) -> str:
    """A mean with its interval."""
    return f"{mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]"


def table(results: list[dict[str, Any]]) -> str:
    """What was found, as Markdown."""
    lines = [
        "| preset | n | ROUGE-L tuned | base, our format | base, its own format | ended, tuned | ended, base | training | equal answers |",
        "|" + "---|" * 9,
    ]
    for result in results:
        rouge, ended = result["measures"]["rouge_l"], result["measures"]["ended"]
        equal = ", ".join(f"{same['equal']} of {same['n']} ({place}, {same['dtype']})" for place, same in result["same"].items())
        cells = [result["preset"], rouge["tuned"]["n"], show(rouge["tuned"]), show(rouge["base"]), show(result["base_at_its_best"])]
        cells += [f"{ended['tuned']['value']:.1%}"]
        cells += [f"{ended['base']['value']:.1%}", f"{result['seconds']:.0f} s, {result['steps']} steps", equal]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="A real base model through the whole path, by each preset.")
    parser.add_argument("--base", required=True, help="folder or hub id of the base model")
    parser.add_argument("--data", required=True, help="file of cards, or a folder that data prepare wrote")
    parser.add_argument("--preset", action="append", help="repeatable [seed, t4, fast]")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="handed to each training")
    parser.add_argument("--limit", type=int, help="measure only so many of the held-out cards")
    parser.add_argument("--on-cpu", type=int, default=4, help="questions for the comparison on the CPU [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("outputs/proof"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    device = python("import json, torch; print(json.dumps('cuda' if torch.cuda.is_available() else 'cpu'))")
    data = Path(arguments.data)
    if not data.is_dir():
        data = arguments.output / "data"
        shutil.rmtree(data, ignore_errors=True)
        shares = ("--test", HELD_OUT, "--validation", VALIDATED)
        run("finetune", "data", "prepare", "--data", arguments.data, "--base", arguments.base, "--output", data, *shares)
    results = []
    for preset in arguments.preset or ["seed", "t4", "fast"]:
        results.append(prove(preset, arguments, data, device))
        log.info("\n%s\n", table(results))


if __name__ == "__main__":
    main()
