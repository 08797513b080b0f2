"""What each CPU kernel is, for those who do not import kernels: its operands, its range, and its work.

A kernel's text is in `memfirst.kernels.cpu`; a test holds the operands here against its signature. Lowering makes its
calls from this, `predict.measured` times and predicts by `work`, and the tables of docs/kernels.md list it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from memfirst.lower.nodes import COLUMNS, EXPERTS, TOKENS, UNITS, NodeCall, NodeOperand, NodeStatic

Args = Mapping[str, NodeOperand]


@dataclass(frozen=True)
class Counts:
    """What a call's work depends on: rows of its range, the step's tokens that it runs for, items of attention and the
    partials that they make, positions attended, the step's sequences; of routed experts the pairs of token and expert,
    and the tiles that these fill."""

    rows: int
    tokens: int
    units: float = 0
    parts: int = 0
    attended: int = 0
    sequences: int = 0
    pairs: int = 0
    tiles: float = 0.0


@dataclass(frozen=True)
class Work:
    """Fixed costs (`units`) and items of the rate that a kernel is timed by."""

    units: float
    amount: float


WorkOf = Callable[[Mapping[str, object], Mapping[str, object], Counts], Work]
"""(operands, statics, counts) -> work."""


@dataclass(frozen=True)
class KernelSpec:
    """One kernel.

    name      module.function in memfirst.kernels.cpu
    over      what its range lo..hi counts
    operands  in the order of its signature
    statics   compiled in; those in `untimed` do not change its rate
    work      what its time is in proportion to
    """

    name: str
    over: str
    operands: tuple[str, ...]
    statics: tuple[str, ...]
    work: WorkOf
    untimed: tuple[str, ...] = ()

    def call(self, args: Args, op: str, purpose: str = "", **statics: NodeStatic) -> NodeCall:
        """A call; TypeError where operands or statics are not the kernel's."""
        if len(args) != len(self.operands) or statics.keys() ^ self.statics:
            raise TypeError(f"{self.name} takes {self.operands} {self.statics}, not {tuple(args)} {tuple(statics)}")
        try:
            ordered = tuple([(name, args[name]) for name in self.operands])
        except KeyError as missing:
            raise TypeError(f"{self.name} takes {missing}") from None
        return NodeCall(self.name, tuple(sorted(statics.items())), ordered, op, purpose)


def _int(values: Mapping[str, object], name: str) -> int:
    value = values[name]
    return int(value) if isinstance(value, int | str) else 0


def _matmul(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    """Weights, once for each tile of tokens."""
    tile = _int(statics, "TILE")
    return Work(0.0, float(n.rows * _int(args, "cols") * -(-n.tokens // tile)))


def _unpacked(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    """The same, and with several tokens, weights that are unpacked once for all of their tiles."""
    tile, weights = _int(statics, "TILE"), float(n.rows * _int(args, "cols"))
    return Work(weights if tile > 1 else 0.0, weights * -(-n.tokens // tile))


def _sketched(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    """Weights, once: it is for one row of logits."""
    return Work(0.0, float(n.rows * _int(args, "cols")))


def _units(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    """A tile, and a look at each of the others."""
    return Work(float(_int(args, "tiles")), float(16 * _int(args, "cols")))


def _columns(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(0.0, float(n.rows * n.tokens))


def _width(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(0.0, float(_int(args, "width") * n.tokens))


def _embed(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(0.0, float(_int(args, "cols") * n.tokens))


def _lerp(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(0.0, float(_int(args, "width") * _int(args, "parts") * n.tokens))


def _each_width(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(0.0, float(_int(args, "width") * n.sequences))


def _carry(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(0.0, float(n.rows * _int(args, "per") * n.sequences))


def _states(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(0.0, float(n.rows * _int(statics, "STATE")))


def _kept(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(0.0, float(n.rows * n.sequences))


def _scan(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    """Columns by token, each with a head's keys; units are what a sequence's columns begin with."""
    return Work(float(n.rows * n.sequences), float(n.rows * n.tokens))


def _attend(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    heads = _int(args, "heads")
    return Work(float(n.units * heads), float(heads * n.attended))


def _merge(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(0.0, float(n.parts * _int(args, "heads") * _int(statics, "GROUP") * _int(statics, "DIM")))


def _width_of_heads(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(0.0, float(_int(args, "heads") * _int(args, "width") * n.tokens))


def _latent(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    groups = _int(args, "groups")
    return Work(float(n.units * groups), float(groups * n.attended))


def _merge_rows(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(0.0, float(n.parts * _int(args, "heads") * _int(statics, "RANK")))


def _down_rows(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    """Weights, unpacked once for each tile of tokens."""
    return Work(0.0, float(n.rows * _int(args, "rows") * -(-n.tokens // _int(statics, "TILE"))))


def _routed(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    """An expert's weights, once for each tile of its tokens."""
    return Work(0.0, n.rows * _int(args, "cols") * n.tiles)


def _pairs(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(0.0, float(n.rows * n.pairs))


def _pick(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    """Looks at all experts for each one that it picks."""
    return Work(0.0, float(_int(args, "experts") * _int(args, "k") * n.tokens))


def _group(args: Mapping[str, object], statics: Mapping[str, object], n: Counts) -> Work:
    return Work(float(_int(args, "experts")), float(n.pairs))


def _spec(name: str, over: str, operands: str, statics: str, work: WorkOf, untimed: str = "") -> KernelSpec:
    return KernelSpec(name, over, tuple(operands.split()), tuple(statics.split()), work, tuple(untimed.split()))


_AFTER = "step count stride"
_WRITE = "cache slots floats step count heads stride block_bytes"
_ATTEND = (
    "q cache scores floats ints q8 top total part item_token item_tokens item_split item_last first_part starts ends "
    "charged tables table_at step count heads stride block_bytes keys_at values_at scale cap"
)
_ATTEND_STATICS = "K_DIM V_DIM GROUP KCODEC VCODEC ROTATE SOFTCAP TILE"
_MERGE = "top total part out sinks floats first_part heads private"
_ONE = "x out step count stride_x stride"
_PAIR = "a b out step count stride_a stride_b stride"
_SHIFT = (
    "x out state sequence_at sequence_new sequence_past state_read step sequences slot state_at width stride_x "
    "private_x private"
)
_CARRY = "state state_read state_write sequence_past step sequences slot state_at per"
_CLEAR = "state state_write sequence_past step sequences slot state_at per"
_FROM = "state sequence_at sequence_new sequence_past state_read state_write step sequences slot state_at"
_SCAN = f"{_FROM} width"
_SEQUENCES = "state sequence_at sequence_new state_write step sequences slot state_at"
_BC = "stride_keys stride_queries private_keys private_queries"
_KEYS = "key_heads ratio keys_width stride"
_LERP = "x previous w more out width parts stride_x stride_previous stride_more private_x private_previous private"
_BLEND = "x other share out step count stride_x stride_other stride_share stride"
_BONUS = "x r k v w out step count stride_x stride_r stride_k stride_v stride head_dim"
_INT8 = "w aq ad {} y step count cols stride private add_to"
_GROUPED = "active first pairs weights step count tokens rows cols k"
_HEADS = "w x y step count heads rows apart cols stride_x stride"
_LATENT = (
    "q rotated cache scores floats top total part item_token item_split item_last starts ends charged tables table_at "
    "groups apart block_bytes rows_at scale"
)
_BIASES = "y bias active first pairs"

KERNELS: Mapping[str, KernelSpec] = {
    spec.name: spec
    for spec in (
        *(
            _spec(f"embed.{kind}", TOKENS, "w tokens x cols scale", "CODEC", _embed)
            for kind in ("block32", "k256", "k256_16")
        ),
        _spec("embed.floats", TOKENS, "w tokens x cols scale", "CODEC", _embed),
        _spec("embed.bf12", TOKENS, "w tokens x cols groups scale", "", _embed),
        _spec("activations.rms_norm", TOKENS, "x w out rows width stride eps offset private", "", _width),
        _spec("activations.norm_groups", TOKENS, "x w out width group stride eps private_x private", "WEIGHT", _width),
        _spec("activations.layer_norm", TOKENS, "x w bias out rows width stride eps private", "BIAS", _width),
        _spec("activations.add_rows", TOKENS, "a b out stride_a stride_b stride width", "", _width),
        _spec("activations.token_gate", TOKENS, "x h w stride width stride_h inner", "", _width),
        _spec("activations.copy", TOKENS, "x out rows stride width", "", _width),
        _spec("activations.quantize", TOKENS, "x aq ad ao af am ap width stride private_in private", "BLOCK", _width),
        _spec("matmul.block32", COLUMNS, _INT8.format("ao af"), "CODEC TILE", _matmul),
        _spec("matmul.k256", COLUMNS, _INT8.format("am"), "CODEC TILE", _matmul),
        _spec("matmul.k256_16", COLUMNS, _INT8.format("ap"), "CODEC TILE", _matmul),
        _spec("sketch.reach", TOKENS, "aq ad sums inverse reach cols", "", _columns),
        _spec("sketch.rows", COLUMNS, "w aq ad sums reach y tops cols tiles", "", _sketched),
        _spec("sketch.choose", UNITS, "w aq ad ao af reach y tops step cols tiles vocab count listed", "CODEC", _units),
        _spec("matmul.floats", COLUMNS, "w x y step count cols stride_x stride private add_to", "CODEC TILE", _matmul),
        _spec(
            "matmul.bf12",
            COLUMNS,
            "w x y unpacked step count cols groups first stride_x stride private add_to",
            "CODEC TILE",
            _unpacked,
        ),
        _spec("elementwise.add_bias", COLUMNS, f"y bias {_AFTER}", "", _columns),
        _spec("elementwise.add", COLUMNS, _PAIR, "", _columns),
        _spec("elementwise.multiply", COLUMNS, _PAIR, "", _columns),
        _spec("elementwise.scale", COLUMNS, f"{_ONE} factor", "", _columns),
        _spec("elementwise.scale_columns", COLUMNS, "x factors out step count stride_x stride", "", _columns),
        _spec("elementwise.scale_rows", COLUMNS, f"y factors rows {_AFTER}", "", _columns),
        _spec("elementwise.softcap", COLUMNS, f"{_ONE} cap", "", _columns),
        _spec("elementwise.activate", COLUMNS, _ONE, "ACT", _columns),
        _spec("elementwise.norm_heads", COLUMNS, f"y w {_AFTER} head_dim eps offset", "", _columns),
        _spec("elementwise.unit_norm", COLUMNS, f"y {_AFTER} head_dim eps", "", _columns),
        _spec(
            "elementwise.layer_norm_heads",
            COLUMNS,
            "x w bias out step count stride_x stride head_dim eps",
            "BIAS",
            _columns,
        ),
        _spec(
            "elementwise.rope",
            COLUMNS,
            f"y cos sin rope_at {_AFTER} head_dim start half apart",
            "SPLIT",
            _columns,
            "SPLIT",
        ),
        _spec("elementwise.glu", COLUMNS, "g u out step count stride_g stride_u stride", "ACT", _columns),
        _spec("elementwise.part_of_heads", COLUMNS, f"{_ONE} start head_x head", "", _columns),
        _spec("conv.convolve", COLUMNS, f"x w bias out {_SEQUENCES} stride_x stride", "KERNEL BIAS ACT", _scan, "BIAS"),
        _spec("conv.keep", COLUMNS, f"x {_SEQUENCES} stride_x", "KERNEL", _kept),
        _spec("delta.decays", COLUMNS, "alpha a dt_bias out step count stride_x stride", "", _columns),
        _spec("delta.unit_keys", COLUMNS, "y step count stride keys_width eps", "K", _columns),
        _spec(
            "delta.scan",
            COLUMNS,
            f"qkv decay share out {_FROM} {_KEYS} stride_decay stride_share width",
            "K V TILED",
            _scan,
            "TILED",
        ),
        _spec("rwkv.shift", TOKENS, _SHIFT, "", _width),
        _spec("rwkv.last_rows", TOKENS, "x out sequence_at sequence_new width stride_x private_x", "", _each_width),
        _spec("rwkv.keep", TOKENS, "x state state_write slot state_at width", "", _each_width),
        _spec("rwkv.lerp", TOKENS, _LERP, "MORE", _lerp),
        _spec("rwkv.blend", COLUMNS, _BLEND, "", _columns),
        _spec("rwkv.scaled_key", COLUMNS, "k a w out step count stride_k stride_a stride", "", _columns),
        _spec("rwkv.head_bonus", COLUMNS, _BONUS, "", _columns),
        _spec(
            "ssm.channel_inputs",
            COLUMNS,
            "x dt d delta out step count stride_x stride_dt stride_delta width",
            "",
            _columns,
        ),
        _spec("ssm.rates", COLUMNS, "a copied width", "STATE", _states),
        _spec(
            "ssm.channels",
            COLUMNS,
            f"x delta a keys queries out {_FROM} stride_x stride_delta {_BC} width",
            "STATE",
            _scan,
        ),
        _spec(
            "ssm.head_inputs",
            COLUMNS,
            "dt a dt_bias delta decay step count stride_dt stride_delta stride_decay",
            "",
            _columns,
        ),
        _spec(
            "ssm.heads",
            COLUMNS,
            f"x keys queries delta decay out {_FROM} stride_x {_BC} stride_delta stride_decay ratio width",
            "HEAD STATE",
            _scan,
        ),
        _spec("ssm.skip", COLUMNS, "x d out step count stride_x width", "HEAD", _columns),
        _spec("state.carry", COLUMNS, _CARRY, "", _carry),
        _spec("state.clear", COLUMNS, _CLEAR, "", _carry),
        _spec("wkv.wkv6_inputs", COLUMNS, "r k w first decay own step count width", "HEAD", _columns),
        _spec("wkv.wkv6", COLUMNS, f"r k v decay own out {_SCAN}", "HEAD", _scan),
        _spec("wkv.wkv7_inputs", COLUMNS, "w k a removal decay key removed step count width", "HEAD", _columns),
        _spec("wkv.wkv7", COLUMNS, f"r k v decay key removed out {_SCAN}", "HEAD", _scan),
        _spec(
            "experts.pick",
            TOKENS,
            "logits logit_bias bias scales expert weight floats experts stride k groups groups_used scale private",
            "SIGMOID LOGIT_BIAS BIAS SCALES NORMALIZE",
            _pick,
            "LOGIT_BIAS BIAS SCALES NORMALIZE",
        ),
        _spec(
            "experts.group",
            UNITS,
            "expert weight active first pairs weights counts step ints count tokens experts k private",
            "",
            _group,
        ),
        _spec("experts.add_bias", EXPERTS, f"{_BIASES} rows width stride", "", _pairs),
        _spec("experts.weigh", EXPERTS, "y first pairs weights rows stride", "", _pairs),
        _spec("experts.add_weighed_bias", COLUMNS, f"{_BIASES} weights step count k width stride", "", _pairs),
        _spec("experts.activate", EXPERTS, "g first pairs rows stride", "ACT", _pairs),
        _spec("experts.glu", EXPERTS, "g u first pairs rows stride", "ACT", _pairs),
        _spec(
            "routed.int8",
            EXPERTS,
            f"w places aq ad ao af am ap y {_GROUPED} stride private",
            "CODEC FAMILY TILE SUM",
            _routed,
        ),
        _spec("routed.floats", EXPERTS, f"w places x y {_GROUPED} width stride private", "CODEC TILE SUM", _routed),
        _spec("attention.write_keys", COLUMNS, f"k {_WRITE} keys_at", "DIM CODEC ROTATE", _columns),
        _spec("attention.write_values", COLUMNS, f"v {_WRITE} values_at", "DIM CODEC ROTATE", _columns),
        _spec("attention.attend", UNITS, _ATTEND, _ATTEND_STATICS, _attend, "ROTATE SOFTCAP"),
        _spec("attention.merge", TOKENS, _MERGE, "DIM GROUP SINKS ROTATE", _merge),
        _spec(
            "heads.int8",
            COLUMNS,
            "w aq ad ao af am ap y step count heads rows apart cols stride private",
            "CODEC FAMILY TILE",
            _matmul,
        ),
        _spec(
            "activations.quantize_heads",
            TOKENS,
            "x aq ad ao af am ap heads width stride private_in private",
            "BLOCK",
            _width_of_heads,
        ),
        _spec("heads.floats", COLUMNS, f"{_HEADS} private", "CODEC TILE", _matmul),
        _spec("heads.transposed", COLUMNS, _HEADS, "CODEC FAMILY TILE", _down_rows),
        _spec(
            "latent.write",
            COLUMNS,
            "latent rotated cache slots step count stride stride_rotated private block_bytes rows_at",
            "RANK ROPE CODEC",
            _columns,
        ),
        _spec("latent.attend", UNITS, _LATENT, "HEADS RANK ROPE CODEC", _latent),
        _spec("latent.merge", TOKENS, "top total part out first_part heads private", "RANK", _merge_rows),
    )
}
