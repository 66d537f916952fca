#!/usr/bin/env python3
"""Generates under seeded random schemas with the embedded model, and validates every output with jsonschema.

    pip install jsonschema[format]
    tests/e2e/constraint_peers.py [--dump build/release/tests/constraint_dump] [--count 1000] [--seed 1]

All requests run in one engine, at temperature 1, several to a step; every tenth asks for two completions. Each output that was finished must parse and
validate, formats included. One that max_tokens cut off must say so. A second run with another batch size must give the same
bits. Exits 1 at any difference.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import jsonschema

from schema_cases import make_schemas

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def run(dump, model, questions, batch):
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    done = subprocess.run([dump, model, str(batch)], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def problem_of(schema, answer):
    """None, or what is wrong with an answer."""
    if "error" in answer:
        return answer["error"]
    if answer["reason"] != "stop":
        return None  # cut off
    if not answer["met"]:
        return "ended before the constraint was met"
    try:
        document = json.loads(answer["text"])
    except ValueError as error:
        return f"not JSON: {error}"
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    return error and f"{error.json_path}: {error.message}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dump", default=str(ROOT / "build/release/tests/constraint_dump"))
    parser.add_argument("--model", default=str(ROOT / "models/fairytale-5m"))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=500)
    options = parser.parse_args()

    schemas = list(make_schemas(options.count, options.seed))
    questions = [
        {"schema": json.dumps(schema, ensure_ascii=index % 2 == 0), "seed": index, "max_tokens": options.max_tokens, "n": 2 if index % 10 == 0 else 1}
        for index, schema in enumerate(schemas)
    ]
    answers = run(options.dump, options.model, questions, 32)
    problems = 0
    num_ended = 0
    place = 0
    for question, schema in zip(questions, schemas):
        for answer in answers[place : place + question["n"]]:
            place += 1
            num_ended += answer.get("reason") == "stop"
            problem = problem_of(schema, answer)
            if problem:
                problems += 1
                print(f"{json.dumps(schema)}\n  {answer.get('text')!r}\n  {problem}")
            if "error" in answer:
                break  # one line for all completions
    print(f"{len(schemas)} schemas, {place} completions, {num_ended} finished, {place - num_ended} cut off, {problems} problems")
    again = run(options.dump, options.model, questions, 5)
    if again != answers:
        problems += 1
        print("another batch size gives other answers")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
