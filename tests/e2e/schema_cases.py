"""Seeded random JSON schemas of growing difficulty, of what people constrain output with."""

import random

PATTERNS = [
    r"^[a-z]{2,8}$",
    r"^(foo|bar)+[0-9]*$",
    r"^\d{3}-\d{4}$",
    r"[A-Z]",
    r"^[A-Z]{2,3}$",
    r"^#[0-9a-f]{6}$",
    r"^(\+\d{1,2} )?\d{3} \d{3}$",
    r"a.{0,3}c$",
    r"^[^\s\"]{1,12}$",
    r"^\w+( \w+){0,3}$",
    r"^v\d+\.\d+\.\d+(-[a-z]+)?$",
    r"^$|^x+y?$",
    "^[\u00e9\u00fc\u20ac]{1,4}$",
]
FORMATS = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "json-pointer"]
NAMES = ["id", "name", "na", "title", "x_1", 'a"b', "t\u00e4g", "value", "v", "kind", "long property name", "a/b"]
VALUES = ["red", "green", "", "line\nline", 'say "hi"', "gr\u00fc\u00df", 0, 1, -7, 2.5, 1e3, True, False, None, [1, "x"], {"k": [], "l": {}}]


class SchemaMaker:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.defs = {}

    def chance(self, p):
        return self.rng.random() < p

    def make(self, size):
        schema = self.value(size)
        if self.defs:
            schema = {"$defs": self.defs, "allOf": [schema]}
        if self.chance(0.3):
            schema.update({"title": "t", "description": "d", "examples": [1]})
        return schema

    def value(self, size):
        simple = [self.integer, self.number, self.string, self.string, self.constant, self.enum]
        deep = [self.array, self.array, self.object, self.object, self.object, self.any_of, self.one_of, self.all_of, self.tree, self.typed]
        return self.rng.choice(simple if size <= 0 else simple + deep)(size - 1)

    def integer(self, _size):
        schema = {"type": "integer"}
        low = self.rng.randint(-5000, 5000)
        if self.chance(0.7):
            schema[self.rng.choice(["minimum", "exclusiveMinimum"])] = low
        if self.chance(0.7):
            schema[self.rng.choice(["maximum", "exclusiveMaximum"])] = low + self.rng.randint(40, 10**self.rng.randint(2, 9))
        if self.chance(0.25):
            schema["multipleOf"] = self.rng.randint(1, 19)
        return schema

    def number(self, _size):
        schema = {"type": "number"}
        low = self.rng.choice([self.rng.uniform(-10, 10), self.rng.randint(-900, 900) / 8, 0.1, -1e-3])
        low = round(low, 6)
        if self.chance(0.7):
            schema[self.rng.choice(["minimum", "exclusiveMinimum"])] = low
        if self.chance(0.7):
            schema[self.rng.choice(["maximum", "exclusiveMaximum"])] = round(low + self.rng.uniform(1, 500), 6)
        if self.chance(0.2):
            schema["multipleOf"] = self.rng.choice([0.5, 0.25, 1, 2])
        return schema

    def string(self, _size):
        schema = {"type": "string"}
        kind = self.rng.random()
        if kind < 0.3:
            schema["pattern"] = self.rng.choice(PATTERNS)
            if self.chance(0.2):
                schema["maxLength"] = 16
        elif kind < 0.55:
            schema["format"] = self.rng.choice(FORMATS)
        else:
            low = self.rng.randint(0, 12)
            if self.chance(0.5):
                schema["minLength"] = low
            schema["maxLength"] = low + self.rng.randint(0, 40)
        return schema

    def constant(self, _size):
        return self.rng.choice([{"type": "boolean"}, {"type": "null"}, {"const": self.rng.choice(VALUES)}])

    def enum(self, _size):
        return {"enum": self.rng.sample(VALUES, self.rng.randint(1, 8))}

    def typed(self, _size):
        return {"type": self.rng.sample(["integer", "null", "boolean"], 2)}

    def array(self, size):
        schema = {"type": "array"}
        num_prefix = self.rng.randint(1, 3) if self.chance(0.3) else 0
        if num_prefix:
            schema["prefixItems"] = [self.value(size) for _ in range(num_prefix)]
        schema["items"] = False if num_prefix and self.chance(0.4) else self.value(size)
        low = self.rng.randint(0, num_prefix or 3)
        if self.chance(0.6):
            schema["minItems"] = low
        schema["maxItems"] = low + self.rng.randint(0, 3)
        return schema

    def object(self, size):
        names = self.rng.sample(NAMES, self.rng.randint(0, 5))
        properties = {name: self.value(size) for name in names}
        schema = {"type": "object", "properties": properties}
        required = [name for name in names if self.chance(0.6)]
        if required:
            schema["required"] = required
        if self.chance(0.6):
            schema["additionalProperties"] = False
        else:
            schema["maxProperties"] = len(names) + self.rng.randint(0, 2)
            if self.chance(0.7):
                schema["additionalProperties"] = self.value(0)
            else:
                schema["propertyNames"] = {"pattern": "^[a-zA-Z_\u00e4 /\"0-9]{1,20}$"}
                schema["additionalProperties"] = {"type": "integer", "minimum": 0, "maximum": 9}
        if self.chance(0.15):
            schema["patternProperties"] = {"^p_[a-z]{1,3}$": self.value(0)}
        if self.chance(0.15) and names:
            schema["minProperties"] = self.rng.randint(0, len(names))
        return schema

    def any_of(self, size):
        return {"anyOf": [self.value(size) for _ in range(self.rng.randint(2, 3))]}

    def one_of(self, size):
        if self.chance(0.4):
            return {
                "oneOf": [
                    {"type": "integer", "multipleOf": self.rng.choice([2, 3]), "minimum": 0, "maximum": 99},
                    {"type": "integer", "multipleOf": 5, "minimum": -100, "maximum": 100},
                    {"type": "string", "pattern": "^a", "maxLength": 8},
                    {"type": "string", "pattern": "b$", "maxLength": 8},
                ]
            }
        kinds = self.rng.sample(["cat", "dog", "fish", "bird"], 3)
        return {
            "type": "object",
            "required": ["kind"],
            "oneOf": [
                {"properties": {"kind": {"const": kind}, kind: self.value(size)}, "required": [kind], "additionalProperties": False}
                for kind in kinds
            ],
        }

    def all_of(self, size):
        return {
            "allOf": [
                {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
                {"properties": {"a": {"maximum": 30}, "b": self.value(size)}, "maxProperties": 2, "required": ["b"]},
            ]
        }

    def tree(self, _size):
        self.defs["tree"] = {
            "type": "object",
            "properties": {
                "label": {"type": "string", "maxLength": 6},
                "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2},
            },
            "required": ["label"],
            "additionalProperties": False,
        }
        return {"$ref": "#/$defs/tree"}


def make_schemas(count, seed):
    """Difficulty grows with the index."""
    for index in range(count):
        yield SchemaMaker(f"{seed}:{index}").make(index * 5 // count)
