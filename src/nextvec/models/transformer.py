"""The Transformer in its default form: four pre-norm layers of 512 over the context, which correct a steered mean.

Every step sees every other one; positions are sinusoids of the age, so that a shorter context reads the same numbers
as the end of a longer one. The newest step's state steers the mean of the context (see `mixture`) and is mapped to the
correction. Pre-norm (Xiong et al. 2020) learns at rates at which the published post-norm form collapses to the mean.
"""

from __future__ import annotations

from torch import Tensor, nn

from nextvec.models.pooling import Mixture
from nextvec.models.published import FEED_FORWARD, HEADS, LAYERS, TABLE_LENGTH, TRANSFORMER_HIDDEN, sinusoids
from nextvec.models.residual import BASE_DECAY, ResidualModel, start_at_zero


class TransformerEncoder(ResidualModel):
    """Linear D→512, sinusoids, four layers, LayerNorm."""

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
        # Kept on the device: copying the table from the CPU in every step would make the host wait.
        self.register_buffer("sinusoids_AH", sinusoids(0, TABLE_LENGTH), persistent=False)
        if zero_start:
            start_at_zero(self.output_proj)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        length = context_BSD.shape[1]
        input_BSH = self.input_proj(context_BSD * self.dimensions**0.5)
        table_AH = self.sinusoids_AH if length <= TABLE_LENGTH else sinusoids(0, length)
        by_age_SH = table_AH[:length].flip(0).to(input_BSH)
        absent_BS = None if mask_BS is None else ~mask_BS
        if absent_BS is not None:
            absent_BS[:, -1] = False  # attention to nothing at all is NaN
        state_BH = self.encoder(input_BSH + by_age_SH, src_key_padding_mask=absent_BS)[:, -1]
        correction_BD: Tensor = self.output_proj(state_BH)
        base_BD: Tensor = self.mixture(state_BH, context_BSD, mask_BS)[:, 0]
        return base_BD + correction_BD
