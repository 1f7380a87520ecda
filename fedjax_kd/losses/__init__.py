"""Loss functions: pure functions of arrays, one value an example, and how to average them.

Nothing here knows of a federation. Values are ``[B]`` (or one a label, ``[B, ...]``), and
`masked_mean` weighs them; a loss that compares examples takes the batch's mask, too. Values and
gradients are finite for logits of 1e4, zero features, equal singular values and batches of one.

=================== ===============================================================================
`supervised`        against labels and values; averages
`distillation`      against a teacher's logits, or those of an ensemble (FedDF)
`received`          against the received model: FedNTD, FedLSD, MOON
`mutual`            models that teach each other: FedKD, FedGKT
`features`          against features and attention maps; FRSKD
`relations`         against relations of examples or tokens: RKD, similarity; FedGEN's diversity
`flow`, `singular`  between stages of a network: FSP, KD-SVD, KD-EID
`lipschitz`         FedAlign's term
`mixing`            mixup: mixed batches
`label_skew`        by a client's class counts: FedLC, FedRS, balanced softmax
=================== ===============================================================================
"""

from fedjax_kd.losses.distillation import (
    ensemble_divergence,
    ensemble_logits,
    kl_divergence,
    log_probabilities,
    logit_mae,
    logit_mse,
    relative_entropy,
    soft_cross_entropy,
)
from fedjax_kd.losses.features import (
    attention_map,
    attention_transfer,
    feature_cosine,
    feature_mse,
    feature_refinement,
    refined_self_distillation,
)
from fedjax_kd.losses.flow import flow_matching, fsp_matrix
from fedjax_kd.losses.label_skew import (
    Adjustment,
    absent_classes,
    adjusted,
    among,
    class_margins,
    class_priors,
    class_restrictions,
)
from fedjax_kd.losses.lipschitz import (
    as_large_as,
    lipschitz_alignment,
    spectral_norm,
    transmitting_matrix,
)
from fedjax_kd.losses.mixing import Mixed, mixed_loss, mixed_with, mixup
from fedjax_kd.losses.mutual import Mutual, adaptive_mutual, group_transfer
from fedjax_kd.losses.received import model_contrastive, not_true, received_divergence
from fedjax_kd.losses.relations import (
    diversity,
    relational_angles,
    relational_distances,
    similarity_preserving,
    token_relations,
)
from fedjax_kd.losses.singular import (
    aligned,
    right_singular_vectors,
    singular_correlation,
    singular_distillation,
)
from fedjax_kd.losses.supervised import (
    NO_LABEL,
    ExampleLoss,
    are_labels,
    batch_mean,
    check_labels,
    check_same_shape,
    cross_entropy,
    label_weights,
    masked_mean,
    squared_error,
    unit,
    value_weights,
)
from fedjax_kd.losses.vectors import cosine_similarity, length, normalised

__all__ = [
    "NO_LABEL",
    "Adjustment",
    "ExampleLoss",
    "Mixed",
    "Mutual",
    "absent_classes",
    "adaptive_mutual",
    "adjusted",
    "aligned",
    "among",
    "are_labels",
    "as_large_as",
    "attention_map",
    "attention_transfer",
    "batch_mean",
    "check_labels",
    "check_same_shape",
    "class_margins",
    "class_priors",
    "class_restrictions",
    "cosine_similarity",
    "cross_entropy",
    "diversity",
    "ensemble_divergence",
    "ensemble_logits",
    "feature_cosine",
    "feature_mse",
    "feature_refinement",
    "flow_matching",
    "fsp_matrix",
    "group_transfer",
    "kl_divergence",
    "label_weights",
    "length",
    "lipschitz_alignment",
    "log_probabilities",
    "logit_mae",
    "logit_mse",
    "masked_mean",
    "mixed_loss",
    "mixed_with",
    "mixup",
    "model_contrastive",
    "normalised",
    "not_true",
    "received_divergence",
    "refined_self_distillation",
    "relational_angles",
    "relational_distances",
    "relative_entropy",
    "right_singular_vectors",
    "similarity_preserving",
    "singular_correlation",
    "singular_distillation",
    "soft_cross_entropy",
    "spectral_norm",
    "squared_error",
    "token_relations",
    "transmitting_matrix",
    "unit",
    "value_weights",
]
