"""The Transformer in its default form: four pre-norm layers of 512, which correct a weighted mean of the context.

Attention is not causal. Positions are sinusoids of the age, so that a shorter context has the same positions as the end
of a longer one. The newest step's state steers the weights of the mean (see `pooling`) and is projected to the
correction. Pre-norm (Xiong et al. 2020) trains at learning rates at which the published post-norm form collapses to the
mean.

Letters in names: B windows of a batch, S context length, D dimensions, H hidden size, A ages.
"""

from __future__ import annotations

from torch import Tensor, nn

from nextvec.models.pooling import Mixture
from nextvec.models.published import FEED_FORWARD, HEADS, LAYERS, TABLE_LENGTH, TRANSFORMER_HIDDEN, sinusoids
from nextvec.models.residual import BASE_DECAY, ResidualModel, zero_initialize


class TransformerEncoder(ResidualModel):
    """Linear D→512, sinusoidal positions, four encoder layers, LayerNorm, Linear 512→D."""

    name = "transformer"
    sinusoids_AH: Tensor

    def __init__(self, dimensions: int, *, dropout: float = 0.1, zero_start: bool = True, query: bool = True) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start, query=query)
        self.mixture = Mixture(dimensions, TRANSFORMER_HIDDEN, (BASE_DECAY,))
        self.input_proj = nn.Linear(dimensions, TRANSFORMER_HIDDEN)
        layer = nn.TransformerEncoderLayer(
            TRANSFORMER_HIDDEN, HEADS, FEED_FORWARD, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, LAYERS, nn.LayerNorm(TRANSFORMER_HIDDEN), enable_nested_tensor=False
        )
        self.output_proj = nn.Linear(TRANSFORMER_HIDDEN, dimensions)
        # A buffer is on the model's device: copying the table from the CPU in every step would make the host wait.
        self.register_buffer("sinusoids_AH", sinusoids(0, TABLE_LENGTH), persistent=False)
        if zero_start:
            zero_initialize(self.output_proj)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        # Elements of a vector of length √D are about 1; the position of a step is its age, 0 for the newest.
        input_BSH = self.input_proj(context_BSD * self.dimensions**0.5)
        # Ages run from S − 1 (oldest) down to 0 (newest), so the rows of the table are reversed.
        length = context_BSD.shape[1]
        table_AH = self.sinusoids_AH if length <= TABLE_LENGTH else sinusoids(0, length)
        position_SH = table_AH[:length].flip(0).to(input_BSH)
        absent_BS = None if mask_BS is None else ~mask_BS
        if absent_BS is not None:
            absent_BS[:, -1] = False  # attention over an empty context would be NaN
        state_BH = self.encoder(input_BSH + position_SH, src_key_padding_mask=absent_BS)[:, -1]
        # prediction = weighted mean + correction
        correction_BD: Tensor = self.output_proj(state_BH)
        base_BD: Tensor = self.mixture(state_BH, context_BSD, mask_BS)[:, 0]
        return base_BD + correction_BD
