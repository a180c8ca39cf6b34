"""What classes take, by signature and by source."""

import inspect

from kdsr_arch.options.signatures import class_keywords, function_keywords, option_keys


class Base:
    def __init__(self, a: int, b: int = 2) -> None:
        self.a = a


class Forwards(Base):
    def __init__(self, c: int = 3, **kwargs: int) -> None:
        super().__init__(**kwargs)


class Swallows(Base):
    def __init__(self, c: int = 3, **kwargs: int) -> None:
        super().__init__(a=1)


class Inherits(Forwards):
    pass


def test_class_keywords() -> None:
    keywords = class_keywords(Base)
    assert list(keywords.parameters) == ["a", "b"] and keywords.required == ["a"] and not keywords.open
    assert keywords.default("b") == 2 and keywords.default("a") is None


def test_forwarded_keywords_are_the_base_class_ones() -> None:
    for cls in (Forwards, Inherits):
        assert set(class_keywords(cls).parameters) == {"a", "b", "c"} and not class_keywords(cls).open


def test_other_keywords_are_open() -> None:
    assert class_keywords(Swallows).open


def unused(img, img2, border, **kwargs):  # noqa: ANN001, ANN201
    return img, img2, border


def used(img, **kwargs):  # noqa: ANN001, ANN201
    return unused(img, **kwargs)


def test_function_keywords() -> None:
    assert list(function_keywords(unused, ("img", "img2")).parameters) == ["border"]
    assert not function_keywords(unused, ("img", "img2")).open
    assert function_keywords(used, ("img",)).open


def helper(opt: dict) -> int:
    return opt.get("from_helper", 1)


class Reader:
    option_keys = {"told": "A key that the source does not show."}

    def __init__(self, opt: dict) -> None:
        self.opt = opt
        self.x = opt["a"], opt.get("b"), "c" in opt, helper(opt)
        self.io_backend_opt = opt["io_backend"]
        self.kind = self.io_backend_opt.pop("kind")
        self.roots = [opt.get(f"dataroot_{side}") for side in ("gt", "lq")]


class DerivedReader(Reader):
    def learn(self) -> None:
        train_opt = self.opt["train"]
        self.y = train_opt.get("d"), self.opt["train"]["e"], self.opt["train"].get("f"), self.other["g"]

    other: dict = {}


def test_option_keys() -> None:
    keys = option_keys(Reader)
    assert keys[""] == {"told", "a", "b", "c", "from_helper", "io_backend", "dataroot_*"}
    assert keys["io_backend"] == {"kind"}


def test_option_keys_of_base_classes_and_sections() -> None:
    keys = option_keys(DerivedReader)
    assert keys["train"] == {"d", "e", "f"} and keys[""] >= option_keys(Reader)[""]


def test_basicsr_model() -> None:
    """EDVRModel reads its own keys beside those of the classes above it."""
    from kdsr_arch.options.known import lookup

    keys = option_keys(lookup("model", "EDVRModel"))
    assert {"tsa_iter", "dcn_lr_mul", "pixel_opt", "perceptual_opt", "ema_decay"} <= keys["train"]
    assert not {"gan_opt", "fix_flow"} & keys["train"]
    assert inspect.isclass(lookup("model", "RealESRGANModel"))  # registered as RealESRGANModel_basicsr
