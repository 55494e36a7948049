"""The family: a user is a vector, each event moves it by a gradient step that was itself learned.

What is known before the outcome (ids, features, the time since the user's last event) is embedded, and a linear
*reader* makes of the embedding the direction in which the user's vector counts, the offset of a small hidden layer, a
bias, the gates of the step, and what the event does to the vector whatever its outcome: it *practises* the outputs, as
if they were pushed, and, if the model `writes`, adds a vector of its own. An output is

    output = vector · direction + hidden_weight · sigmoid(vector @ hidden_columns + offset) + bias

and a head (`heads`) says what outputs mean. The step is downhill on the head's loss, coordinate by coordinate, gated by
vector and event, while the vector fades towards its rest at each coordinate's own pace, by events and, if the model
`uses_time`, by the time between them. All of it is trained offline by unrolling the steps (`trainer`), so the online
step itself is learned (Andrychowicz et al. 2016, https://arxiv.org/abs/1606.04474; gates as in an LSTM's). It needs
nothing but the user's row: no history.

Gradients are written out by hand: they are a few small operations, where autograd costs several times that for one
user. `Model.update` computes the same by autograd, and a test holds the two together; but for a head whose residual is
a natural one.

Letters: B users, K id fields, F features, P outputs, S floats of the vector, E embedding, H hidden units, G = H + S
(hidden units and gates), R = S P + G + 2 P (all that is read from an embedding; S more, if it writes), D floats of a
row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from evercurrent.model import Batch, CompiledUpdate, IdField, Model, ObservationSpec, OutcomeKind, Update
from evercurrent.models.adaptive import clock
from evercurrent.models.adaptive.heads import Head, Verdict, bernoulli, head_of

UNKNOWN = 0
"""The row of ids that training has never seen: the embedding zero."""

LOG_SCORE_MAX = 10.0

_LOG_DECAY_SLOW, _LOG_DECAY_FAST = -7.0, -1.5
_LOG_FORGET_SLOW, _LOG_FORGET_FAST = -7.0, -2.0
_NUM_ALWAYS = 4


class Reading(NamedTuple):
    """What an event says before its outcome is known. The direction has no P where there is one output."""

    direction_BSP: Tensor
    offset_BG: Tensor
    bias_BP: Tensor
    practice_BP: Tensor
    write_BS: Tensor | None

    def at(self, place: int) -> Reading:
        """Of many readings along a first dimension, one."""
        return self._each(lambda part: part[place])

    def unflatten(self, shape: Sequence[int]) -> Reading:
        """The readings of events that are laid out like this."""
        return self._each(lambda part: part.unflatten(0, shape))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Reading:
        return Reading(
            change(self.direction_BSP),
            change(self.offset_BG),
            change(self.bias_BP),
            change(self.practice_BP),
            None if self.write_BS is None else change(self.write_BS),
        )


class Answer(NamedTuple):
    """What a user's vector makes of a reading."""

    hidden_BH: Tensor
    gate_BS: Tensor
    output_BP: Tensor


class Weights(NamedTuple):
    """What a vector's answer and step take of the weights: looked up once, for a module looks each up by its name."""

    state_weight_SG: Tensor
    slope_weight_HS: Tensor
    hidden_weight_HP: Tensor
    hidden_weight_H: Tensor
    rate_S: Tensor
    rest_S: Tensor
    decay_S: Tensor
    forget_S: Tensor


class Encoder(NamedTuple):
    """What is summed up to an embedding; folded for serving, to a reading itself: the reader is linear, so each id has
    its own part of a reading."""

    tables: tuple[Tensor, ...]
    base: Tensor
    linear_F: Tensor
    inner_F: Tensor
    inner_bias: Tensor
    outer: Tensor
    gap: Tensor
    rows_NR: Tensor | None = None
    """Folded: all that is summed up, the parts above, which are views of it, in the order of `compiled`."""


class Moment(NamedTuple):
    """An event's time: seconds since its user's last one, the clock as the row keeps it, and what the gap leaves."""

    gap_B: Tensor
    clock_B2: Tensor
    kept_BS: Tensor


class Adaptive(Model):
    """`ids`: the size of each id field's table, whose row 0 (UNKNOWN) stands for all that was not in training.
    `features` are numbers of about unit size. `head` is one of HEADS; `num_choices` belongs to a categorical one."""

    name: ClassVar[str] = "adaptive"
    score_max = 2 * LOG_SCORE_MAX

    def __init__(
        self,
        ids: Mapping[str, int] | Sequence[tuple[str, int]],
        features: Sequence[str] = (),
        head: str = "bernoulli",
        num_choices: int = 0,
        state_size: int = 32,
        embedding_size: int = 32,
        hidden_size: int = 16,
        uses_time: bool = False,
        writes: bool = False,
    ) -> None:
        super().__init__()
        self.head = self._head(head, num_choices)
        self.observation = ObservationSpec(
            ids=tuple(IdField(name, size) for name, size in dict(ids).items()),
            features=tuple(features),
            outcome=self.head.outcome,
        )
        self.prediction_width = self.head.width
        self.state_size, self.embedding_size, self.hidden_size = state_size, embedding_size, hidden_size
        self.uses_time, self.writes = uses_time, writes
        self.state_shapes = {"vector": (state_size,)}
        if uses_time:
            self.state_shapes[clock.NAME] = (clock.WIDTH,)
        self.learned = ("vector",)
        self._config: dict[str, object] = {
            "ids": list(dict(ids).items()),
            "features": list(features),
            "head": head,
            "num_choices": num_choices,
            "state_size": state_size,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "uses_time": uses_time,
            "writes": writes,
        }
        width, num_features = self.head.width, len(features)
        # The last P columns of what is summed up are a bias of its own, so that one look-up brings both.
        self._columns = embedding_size + width
        self.tables = nn.ParameterList([torch.zeros(field.size, self._columns) for field in self.observation.ids])
        self.linear_F = nn.Parameter(torch.zeros(num_features, self._columns))
        self.inner_F = nn.Parameter(torch.zeros(num_features, embedding_size))
        self.inner_bias_E = nn.Parameter(torch.zeros(embedding_size))
        self.outer_E = nn.Parameter(torch.zeros(embedding_size, self._columns))
        self.gap = nn.Parameter(torch.zeros(self._columns), requires_grad=uses_time)
        self._widths = (state_size * width, hidden_size + state_size, width, width, *([state_size] if writes else []))
        self._bias_at = self._widths[0] + self._widths[1]
        self.reader_weight_ER = nn.Parameter(torch.zeros(embedding_size, sum(self._widths)))
        self.reader_bias_R = nn.Parameter(torch.zeros(sum(self._widths)))
        self.state_weight_SG = nn.Parameter(torch.zeros(state_size, hidden_size + state_size))
        self.hidden_weight_HP = nn.Parameter(torch.zeros(hidden_size, width))
        self.rate_S = nn.Parameter(torch.full((state_size,), self.head.step_size))
        self.decay_logit_S = nn.Parameter(torch.linspace(_LOG_DECAY_SLOW, _LOG_DECAY_FAST, state_size))
        self.forget_log_S = nn.Parameter(torch.linspace(_LOG_FORGET_SLOW, _LOG_FORGET_FAST, state_size))
        self.initial_S = nn.Parameter(torch.zeros(state_size))
        self.rest_S = nn.Parameter(torch.zeros(state_size))
        self._folded: tuple[Encoder, Weights] | None = None

    def _head(self, kind: str, num_choices: int) -> Head:
        return head_of(kind, num_choices)

    def config(self) -> dict[str, object]:
        return self._config

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch has it; what was folded of the old weights is folded anew."""
        keys = super().load_state_dict(*args, **kwargs)
        self.train(self.training)
        return keys

    def train(self, mode: bool = True) -> Self:
        """Weights may change in training mode only; leaving it folds them for serving."""
        super().train(mode)
        self._folded = None
        self._folded = None if mode else self._fold()
        return self

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draws untrained weights: random ids, and some coordinates that count for every event. The first table of
        several begins at zero: what is told by the others need not be told by it."""
        for table in self.tables[1:] if len(self.tables) > 1 else self.tables:
            table[1:, : self.embedding_size].normal_(0.0, 0.1, generator=generator)
        if self.observation.features:
            scale = 0.3 / math.sqrt(len(self.observation.features))
            self.linear_F[:, : self.embedding_size].normal_(0.0, scale, generator=generator)
            self.inner_F.normal_(0.0, scale, generator=generator)
            self.outer_E[:, : self.embedding_size].normal_(0.0, 0.1, generator=generator)
        self.reader_weight_ER.normal_(0.0, 1 / math.sqrt(self.embedding_size), generator=generator)
        width = self.head.width
        self.reader_weight_ER[:, self._bias_at + width :] = 0.0
        always_SP = self.reader_bias_R[: self.state_size * width].view(self.state_size, width)
        for at, coordinate in enumerate(range(0, self.state_size, max(1, self.state_size // (_NUM_ALWAYS * width)))):
            always_SP[coordinate, at % width] = 1.0
        self.state_weight_SG.normal_(0.0, 0.1, generator=generator)
        self.hidden_weight_HP.normal_(0.0, 0.1, generator=generator)
        self.train(self.training)

    def initial_state(self) -> Tensor:
        vector_S = self.initial_S.detach().clone()
        return torch.cat((vector_S, vector_S.new_zeros(clock.WIDTH))) if self.uses_time else vector_S

    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        weights = self.weights()
        vector_BS, moment = self._now(state_BD, batch, weights)
        return self._answer(vector_BS, self._read(batch, moment), weights)

    def _answer(self, vector_BS: Tensor, reading: Reading, weights: Weights) -> Tensor:
        return self.answer(vector_BS, reading, weights).output_BP

    def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return self.head.loss(prediction_BP, batch.outcome)

    def readout(self, prediction_BP: Tensor) -> Tensor:
        return self.head.readout(prediction_BP)

    def learn(self, state_BD: Tensor, gradient_BD: Tensor, batch: Batch) -> Tensor:
        weights = self.weights()
        vector_BS, moment = self._now(state_BD, batch, weights)
        reading = self._read(batch, moment)
        answer = self.answer(vector_BS, reading, weights)
        slope_BSP = self.slope(answer, reading, weights)
        if self.head.is_natural:
            moved_BS = self.step(
                vector_BS, reading, answer, slope_BSP, self.judge(vector_BS, answer, batch.outcome), weights
            )
            return self._where_told(state_BD, self._row(moved_BS, moment), batch)
        ascent_BS = self.pull(slope_BSP, reading.practice_BP, reading.write_BS)
        downhill_BS = gradient_BD[:, : self.state_size]
        if moment is not None:
            downhill_BS = downhill_BS / moment.kept_BS
        moved_BS = self.moved(vector_BS, answer, ascent_BS - downhill_BS, weights)
        return self._where_told(state_BD, self._row(moved_BS, moment), batch)

    @torch.inference_mode()
    def update(self, state_BD: Tensor, batch: Batch) -> Update:
        """As `Model.update`, with the gradient written out. In inference mode: for one user a third of the time of
        these small operations is what autograd keeps of them even where it records nothing (docs/adr/0022)."""
        weights = self.weights()
        vector_BS, moment = self._now(state_BD, batch, weights)
        reading = self._read(batch, moment)
        answer = self.answer(vector_BS, reading, weights)
        slope_BSP = self.slope(answer, reading, weights)
        verdict, aside_BS = self.judge(vector_BS, answer, batch.outcome)
        gradient_BS = self.pull(slope_BSP, verdict.residual_BP, aside_BS)
        if moment is not None:
            gradient_BS = gradient_BS * moment.kept_BS
        norm_B = torch.linalg.vector_norm(gradient_BS, dim=1)
        moved_BS = self.step(vector_BS, reading, answer, slope_BSP, (verdict, aside_BS), weights)
        row_BD, loss_B = self._row(moved_BS, moment), verdict.loss_B
        if not batch.has_outcome_B.all():
            has_B = batch.has_outcome_B.to(state_BD.dtype)
            row_BD, loss_B, norm_B = self._where_told(state_BD, row_BD, batch), loss_B * has_B, norm_B * has_B
        return Update(
            state_BD=row_BD,
            prediction_BP=verdict.seen_BP,
            loss_B=loss_B,
            gradient_norm_B=norm_B,
        )

    def compiled_update(self) -> CompiledUpdate | None:
        """As `update`, for a Bernoulli head, as long as no part of it is another class's own, and observations and rows
        are those of the weights: machine code looks at no bounds."""
        if self._folded is None or self.head != bernoulli():
            return None
        if any(getattr(type(self), part) is not getattr(Adaptive, part) for part in _COMPILED):
            return None
        width = self.state_size + (clock.WIDTH if self.uses_time else 0)
        sizes, num_features = [field.size for field in self.observation.ids], len(self.observation.features)
        if (self.state_width, sizes, num_features) != (
            width,
            [len(table) for table in self.tables],
            len(self.linear_F),
        ):
            return None
        # Imported here: it compiles, which only who serves has to wait for.
        from evercurrent.models.adaptive.compiled import compiled

        return compiled(*self._folded)

    def read(self, ids_BK: Tensor, features_BF: Tensor, gap_B: Tensor | None) -> Reading:
        """All that depends on an event alone. `gap_B`: seconds since the user's last one; None: no time is used."""
        if self._folded is not None:
            parts_BR, own_bias_BP = _sum(self._folded[0], ids_BK, features_BF, gap_B), None
        else:
            sum_BE = _sum(self._encoder(), ids_BK, features_BF, gap_B)
            size = self.embedding_size
            parts_BR = torch.addmm(self.reader_bias_R, sum_BE[:, :size], self.reader_weight_ER)
            own_bias_BP = sum_BE[:, size:]
        direction, offset_BG, bias_BP, practice_BP, *written = parts_BR.split_with_sizes(self._widths, 1)
        if own_bias_BP is not None:
            bias_BP = bias_BP + own_bias_BP
        if self.head.width > 1:
            direction = direction.unflatten(1, (self.state_size, self.head.width))
        return Reading(direction, offset_BG, bias_BP, practice_BP, written[0] if written else None)

    def weights(self) -> Weights:
        """As they are now."""
        if self._folded is not None:
            return self._folded[1]
        return Weights(
            self.state_weight_SG,
            self.state_weight_SG[:, : self.hidden_size].t(),
            self.hidden_weight_HP,
            self.hidden_weight_HP[:, 0],
            self.rate_S,
            self.rest_S,
            self.decay_logit_S.sigmoid(),
            self.forget_log_S.exp(),
        )

    def answer(self, vector_BS: Tensor, reading: Reading, weights: Weights) -> Answer:
        """The outputs, and what the step needs again."""
        active_BG = torch.addmm(reading.offset_BG, vector_BS, weights.state_weight_SG).sigmoid()
        hidden_BH, gate_BS = active_BG.split_with_sizes((self.hidden_size, self.state_size), 1)
        if self.head.width == 1:
            known_BP = (vector_BS * reading.direction_BSP).sum(1, keepdim=True)
        else:
            known_BP = torch.bmm(vector_BS.unsqueeze(1), reading.direction_BSP).squeeze(1)
        return Answer(hidden_BH, gate_BS, torch.addmm(reading.bias_BP, hidden_BH, weights.hidden_weight_HP) + known_BP)

    def slope(self, answer: Answer, reading: Reading, weights: Weights) -> Tensor:
        """The derivative of each output by its own vector: [B, S] of one output, else [B, S, P]."""
        hidden_BH = answer.hidden_BH
        bend_BH = torch.addcmul(hidden_BH, hidden_BH, hidden_BH, value=-1.0)
        if self.head.width == 1:
            return torch.addmm(reading.direction_BSP, bend_BH * weights.hidden_weight_H, weights.slope_weight_HS)
        bent_BHP = bend_BH.unsqueeze(2) * weights.hidden_weight_HP
        return reading.direction_BSP + torch.matmul(weights.slope_weight_HS.t(), bent_BHP)

    def pull(self, slope_BSP: Tensor, force_BP: Tensor, written_BS: Tensor | None = None) -> Tensor:
        """Where forces on the outputs move the vector [B, S], and what is written to it besides."""
        if self.head.width > 1:
            force_BP1 = force_BP.unsqueeze(2)
            if written_BS is None:
                return torch.bmm(slope_BSP, force_BP1).squeeze(2)
            return torch.baddbmm(written_BS.unsqueeze(2), slope_BSP, force_BP1).squeeze(2)
        return slope_BSP * force_BP if written_BS is None else torch.addcmul(written_BS, slope_BSP, force_BP)

    def judge(self, vector_BS: Tensor, answer: Answer, outcome: Tensor) -> tuple[Verdict, Tensor | None]:
        """Outputs beside what happened; and where outputs that no reading gives would move the vector [B, S]."""
        return self.head.judge(answer.output_BP, outcome), None

    def fit_loss(
        self, vector_BS: Tensor, output_BP: Tensor, ids_BK: Tensor, outcome: Tensor, met_BI: Tensor | None
    ) -> Tensor:
        """What training makes small [B]: the losses of outputs that vectors gave before the outcomes. `met_BI`: ids of
        the first field that cannot come now; None: any can."""
        return self.head.loss(output_BP, outcome)

    def score(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        """Of a Gaussian: minus the log of the density, held to LOG_SCORE_MAX either way, from 0 on."""
        if self.head.outcome.kind is not OutcomeKind.VALUE or self.head.width != 2:
            return super().score(prediction_BP, batch)
        log_score_B = self.head.loss(torch.stack((prediction_BP[:, 0], prediction_BP[:, 1].log()), 1), batch.outcome)
        return log_score_B.clamp(-LOG_SCORE_MAX, LOG_SCORE_MAX) + LOG_SCORE_MAX

    def step(
        self,
        vector_BS: Tensor,
        reading: Reading,
        answer: Answer,
        slope_BSP: Tensor,
        judged: tuple[Verdict, Tensor | None],
        weights: Weights,
    ) -> Tensor:
        """The vectors after an event with an outcome, which `judge` judged."""
        verdict, aside_BS = judged
        written_BS = reading.write_BS
        if aside_BS is not None:
            written_BS = aside_BS if written_BS is None else written_BS + aside_BS
        ascent_BS = self.pull(slope_BSP, verdict.residual_BP + reading.practice_BP, written_BS)
        return self.moved(vector_BS, answer, ascent_BS, weights)

    @staticmethod
    def moved(vector_BS: Tensor, answer: Answer, ascent_BS: Tensor, weights: Weights) -> Tensor:
        """Faded, and moved that way as far as the gates let it."""
        rested_BS = torch.lerp(vector_BS, weights.rest_S, weights.decay_S)
        return torch.addcmul(rested_BS, answer.gate_BS * weights.rate_S, ascent_BS)

    def _read(self, batch: Batch, moment: Moment | None) -> Reading:
        return self.read(batch.ids_BK, batch.features_BF, None if moment is None else moment.gap_B)

    def _now(self, state_BD: Tensor, batch: Batch, weights: Weights) -> tuple[Tensor, Moment | None]:
        """The vectors as they are at the events' times, and these."""
        if not self.uses_time:
            return state_BD, None
        vector_BS, clock_B2 = state_BD.split_with_sizes((self.state_size, clock.WIDTH), 1)
        now_B2 = clock.clock_of(batch.event_time_us_B)
        gap_B = clock.gap_s(clock_B2.detach(), now_B2)
        kept_BS = kept(gap_B, weights)
        return faded(vector_BS, kept_BS, weights), Moment(gap_B, now_B2, kept_BS)

    @staticmethod
    def _row(vector_BS: Tensor, moment: Moment | None) -> Tensor:
        """Rows [B, D] of vectors, at the time of an event."""
        return vector_BS if moment is None else torch.cat((vector_BS, moment.clock_B2), dim=1)

    @staticmethod
    def _where_told(state_BD: Tensor, row_BD: Tensor, batch: Batch) -> Tensor:
        return torch.where(batch.has_outcome_B.unsqueeze(1), row_BD, state_BD)

    def _encoder(self) -> Encoder:
        return Encoder(
            tuple(self.tables),
            self.reader_bias_R.new_zeros(self._columns),
            self.linear_F,
            self.inner_F,
            self.inner_bias_E,
            self.outer_E,
            self.gap,
        )

    @torch.no_grad()
    def _fold(self) -> tuple[Encoder, Weights]:
        """In double precision: rounded once, so that workers with other numbers of threads serve the same bits."""
        size, reader_ER = self.embedding_size, self.reader_weight_ER.double()
        bias_at, width = self._bias_at, self.head.width

        def read(sums_E: Tensor) -> Tensor:
            read_R = sums_E.double()[..., :size] @ reader_ER
            read_R[..., bias_at : bias_at + width] += sums_E[..., size:]
            return read_R

        encoder = self._encoder()
        tables = [read(table) for table in encoder.tables]
        base_R = self.reader_bias_R.double()
        if tables:
            tables[-1] += base_R
            base_R = torch.zeros_like(base_R)
        parts = [base_R[None], read(encoder.gap)[None], read(encoder.linear_F), read(encoder.outer), *tables]
        # One tensor, of which the parts are views: tables may be large, and what is compiled takes them all as one.
        rows_NR = torch.cat([part.float() for part in parts])
        base_1R, gap_1R, linear_FR, outer_ER, *tables = rows_NR.split([len(part) for part in parts])
        folded = Encoder(
            tuple(tables),
            base_1R[0],
            linear_FR,
            encoder.inner_F.detach().clone(),
            encoder.inner_bias.detach().clone(),
            outer_ER,
            gap_1R[0],
            rows_NR,
        )
        return folded, Weights(*(weight.detach() for weight in self.weights()))


_COMPILED = (
    "update",
    "weights",
    "read",
    "answer",
    "slope",
    "judge",
    "pull",
    "step",
    "moved",
    "_read",
    "_now",
    "_row",
    "_where_told",
    "_fold",
)
"""What an update does: the methods that `compiled` stands for."""


def kept(gap_B: Tensor, weights: Weights) -> Tensor:
    """What a time without events leaves [B, S] of how far a vector is from its rest: a power law, as people forget
    (Wixted and Ebbesen 1991)."""
    passed_B1 = torch.log1p(gap_B / clock.FORGET_AFTER_S).unsqueeze(1)
    kept_BS: Tensor = torch.exp(-passed_B1 * weights.forget_S)
    return kept_BS


def faded(vector_BS: Tensor, kept_BS: Tensor, weights: Weights) -> Tensor:
    """Vectors of which a time without events has left so much."""
    faded_BS: Tensor = torch.lerp(weights.rest_S, vector_BS, kept_BS)
    return faded_BS


def _sum(encoder: Encoder, ids_BK: Tensor, features_BF: Tensor, gap_B: Tensor | None) -> Tensor:
    """The parts of ids, features and time, summed up."""
    sum_B: Tensor | None = None
    for table, id_B in zip(encoder.tables, ids_BK.unbind(1), strict=True):
        part_B = table.index_select(0, id_B)
        sum_B = part_B if sum_B is None else sum_B + part_B
    if features_BF.shape[1]:
        sum_B = torch.addmm(encoder.base if sum_B is None else sum_B, features_BF, encoder.linear_F)
        inner_BE = torch.addmm(encoder.inner_bias, features_BF, encoder.inner_F)
        sum_B = torch.addmm(sum_B, functional.silu(inner_BE), encoder.outer)
    if sum_B is None:
        sum_B = encoder.base.expand(len(ids_BK), -1)
    if gap_B is not None:
        sum_B = torch.addcmul(sum_B, torch.log1p(gap_B).unsqueeze(1), encoder.gap, value=clock.GAP_SCALE)
    return sum_B
