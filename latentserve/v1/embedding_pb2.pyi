from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_INT16: _ClassVar[DataType]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_LOW: _ClassVar[Priority]
    PRIORITY_NORMAL: _ClassVar[Priority]
    PRIORITY_HIGH: _ClassVar[Priority]

class Guarantee(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GUARANTEE_UNSPECIFIED: _ClassVar[Guarantee]
    GUARANTEE_MARGINAL: _ClassVar[Guarantee]
    GUARANTEE_CONDITIONAL: _ClassVar[Guarantee]

class Decision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_UNSPECIFIED: _ClassVar[Decision]
    DECISION_PER_ROW: _ClassVar[Decision]
    DECISION_FALSE_DISCOVERY_RATE: _ClassVar[Decision]

class Output(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_UNSPECIFIED: _ClassVar[Output]
    OUTPUT_EMBEDDING: _ClassVar[Output]
    OUTPUT_LATENT: _ClassVar[Output]
    OUTPUT_RECONSTRUCTION: _ClassVar[Output]
    OUTPUT_SCORE: _ClassVar[Output]
    OUTPUT_ANOMALY_MAP: _ClassVar[Output]
    OUTPUT_CODES: _ClassVar[Output]

class Modality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODALITY_UNSPECIFIED: _ClassVar[Modality]
    MODALITY_IMAGE: _ClassVar[Modality]
    MODALITY_AUDIO: _ClassVar[Modality]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_INT16: DataType
PRIORITY_UNSPECIFIED: Priority
PRIORITY_LOW: Priority
PRIORITY_NORMAL: Priority
PRIORITY_HIGH: Priority
GUARANTEE_UNSPECIFIED: Guarantee
GUARANTEE_MARGINAL: Guarantee
GUARANTEE_CONDITIONAL: Guarantee
DECISION_UNSPECIFIED: Decision
DECISION_PER_ROW: Decision
DECISION_FALSE_DISCOVERY_RATE: Decision
OUTPUT_UNSPECIFIED: Output
OUTPUT_EMBEDDING: Output
OUTPUT_LATENT: Output
OUTPUT_RECONSTRUCTION: Output
OUTPUT_SCORE: Output
OUTPUT_ANOMALY_MAP: Output
OUTPUT_CODES: Output
MODALITY_UNSPECIFIED: Modality
MODALITY_IMAGE: Modality
MODALITY_AUDIO: Modality

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class EncodedItems(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, items: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Input(_message.Message):
    __slots__ = ("tensor", "encoded")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    tensor: Tensor
    encoded: EncodedItems
    def __init__(self, tensor: _Optional[_Union[Tensor, _Mapping]] = ..., encoded: _Optional[_Union[EncodedItems, _Mapping]] = ...) -> None: ...

class ModelSelector(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("name", "version", "embedding_space")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SPACE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    embedding_space: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., embedding_space: _Optional[str] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("model", "input", "priority")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model: ModelSelector
    input: Input
    priority: Priority
    def __init__(self, model: _Optional[_Union[ModelSelector, _Mapping]] = ..., input: _Optional[_Union[Input, _Mapping]] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("model", "embeddings")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    embeddings: Tensor
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., embeddings: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class ReconstructRequest(_message.Message):
    __slots__ = ("model", "input", "priority")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model: ModelSelector
    input: Input
    priority: Priority
    def __init__(self, model: _Optional[_Union[ModelSelector, _Mapping]] = ..., input: _Optional[_Union[Input, _Mapping]] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class ReconstructResponse(_message.Message):
    __slots__ = ("model", "reconstructions")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    reconstructions: Tensor
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., reconstructions: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("model", "input", "alpha", "priority", "guarantee", "decision", "maps")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    GUARANTEE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    model: ModelSelector
    input: Input
    alpha: float
    priority: Priority
    guarantee: Guarantee
    decision: Decision
    maps: bool
    def __init__(self, model: _Optional[_Union[ModelSelector, _Mapping]] = ..., input: _Optional[_Union[Input, _Mapping]] = ..., alpha: _Optional[float] = ..., priority: _Optional[_Union[Priority, str]] = ..., guarantee: _Optional[_Union[Guarantee, str]] = ..., decision: _Optional[_Union[Decision, str]] = ..., maps: bool = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("model", "out_of_distribution", "anomaly_maps")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    ANOMALY_MAPS_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    out_of_distribution: OutOfDistribution
    anomaly_maps: AnomalyMaps
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., out_of_distribution: _Optional[_Union[OutOfDistribution, _Mapping]] = ..., anomaly_maps: _Optional[_Union[AnomalyMaps, _Mapping]] = ...) -> None: ...

class ScoreStreamRequest(_message.Message):
    __slots__ = ("id", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: int
    request: ScoreRequest
    def __init__(self, id: _Optional[int] = ..., request: _Optional[_Union[ScoreRequest, _Mapping]] = ...) -> None: ...

class ScoreStreamResponse(_message.Message):
    __slots__ = ("id", "code", "message", "retry_after_ms", "response")
    ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    id: int
    code: int
    message: str
    retry_after_ms: int
    response: ScoreResponse
    def __init__(self, id: _Optional[int] = ..., code: _Optional[int] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., response: _Optional[_Union[ScoreResponse, _Mapping]] = ...) -> None: ...

class OutOfDistribution(_message.Message):
    __slots__ = ("detectors", "scores", "p_values", "flagged", "alpha", "deciding_detector", "detector_p_values", "guarantee", "decision")
    DETECTORS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    P_VALUES_FIELD_NUMBER: _ClassVar[int]
    FLAGGED_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    DECIDING_DETECTOR_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_P_VALUES_FIELD_NUMBER: _ClassVar[int]
    GUARANTEE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    detectors: _containers.RepeatedScalarFieldContainer[str]
    scores: Tensor
    p_values: _containers.RepeatedScalarFieldContainer[float]
    flagged: _containers.RepeatedScalarFieldContainer[bool]
    alpha: float
    deciding_detector: str
    detector_p_values: Tensor
    guarantee: Guarantee
    decision: Decision
    def __init__(self, detectors: _Optional[_Iterable[str]] = ..., scores: _Optional[_Union[Tensor, _Mapping]] = ..., p_values: _Optional[_Iterable[float]] = ..., flagged: _Optional[_Iterable[bool]] = ..., alpha: _Optional[float] = ..., deciding_detector: _Optional[str] = ..., detector_p_values: _Optional[_Union[Tensor, _Mapping]] = ..., guarantee: _Optional[_Union[Guarantee, str]] = ..., decision: _Optional[_Union[Decision, str]] = ...) -> None: ...

class AnomalyMaps(_message.Message):
    __slots__ = ("detector", "maps", "p_values", "alpha", "threshold", "guarantee", "regions", "image")
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    P_VALUES_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    GUARANTEE_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    detector: str
    maps: Tensor
    p_values: Tensor
    alpha: float
    threshold: float
    guarantee: Guarantee
    regions: _containers.RepeatedCompositeFieldContainer[Region]
    image: ImageFormat
    def __init__(self, detector: _Optional[str] = ..., maps: _Optional[_Union[Tensor, _Mapping]] = ..., p_values: _Optional[_Union[Tensor, _Mapping]] = ..., alpha: _Optional[float] = ..., threshold: _Optional[float] = ..., guarantee: _Optional[_Union[Guarantee, str]] = ..., regions: _Optional[_Iterable[_Union[Region, _Mapping]]] = ..., image: _Optional[_Union[ImageFormat, _Mapping]] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ("row", "y", "x", "height", "width", "area", "peak", "p_value")
    ROW_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    AREA_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    row: int
    y: int
    x: int
    height: int
    width: int
    area: float
    peak: float
    p_value: float
    def __init__(self, row: _Optional[int] = ..., y: _Optional[int] = ..., x: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., area: _Optional[float] = ..., peak: _Optional[float] = ..., p_value: _Optional[float] = ...) -> None: ...

class AnalyzeRequest(_message.Message):
    __slots__ = ("model", "input", "outputs", "alpha", "priority", "guarantee", "decision")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    GUARANTEE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    model: ModelSelector
    input: Input
    outputs: _containers.RepeatedScalarFieldContainer[Output]
    alpha: float
    priority: Priority
    guarantee: Guarantee
    decision: Decision
    def __init__(self, model: _Optional[_Union[ModelSelector, _Mapping]] = ..., input: _Optional[_Union[Input, _Mapping]] = ..., outputs: _Optional[_Iterable[_Union[Output, str]]] = ..., alpha: _Optional[float] = ..., priority: _Optional[_Union[Priority, str]] = ..., guarantee: _Optional[_Union[Guarantee, str]] = ..., decision: _Optional[_Union[Decision, str]] = ...) -> None: ...

class AnalyzeResponse(_message.Message):
    __slots__ = ("model", "embeddings", "latents", "reconstructions", "out_of_distribution", "anomaly_maps", "codes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    ANOMALY_MAPS_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    embeddings: Tensor
    latents: Tensor
    reconstructions: Tensor
    out_of_distribution: OutOfDistribution
    anomaly_maps: AnomalyMaps
    codes: Tensor
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., embeddings: _Optional[_Union[Tensor, _Mapping]] = ..., latents: _Optional[_Union[Tensor, _Mapping]] = ..., reconstructions: _Optional[_Union[Tensor, _Mapping]] = ..., out_of_distribution: _Optional[_Union[OutOfDistribution, _Mapping]] = ..., anomaly_maps: _Optional[_Union[AnomalyMaps, _Mapping]] = ..., codes: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("model", "latents", "priority")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model: ModelSelector
    latents: Tensor
    priority: Priority
    def __init__(self, model: _Optional[_Union[ModelSelector, _Mapping]] = ..., latents: _Optional[_Union[Tensor, _Mapping]] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("model", "reconstructions")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    reconstructions: Tensor
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., reconstructions: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: ModelSelector
    def __init__(self, model: _Optional[_Union[ModelSelector, _Mapping]] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model", "limits")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    model: Model
    limits: Limits
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "rejected")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    rejected: _containers.RepeatedCompositeFieldContainer[RejectedBundle]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., rejected: _Optional[_Iterable[_Union[RejectedBundle, _Mapping]]] = ...) -> None: ...

class RejectedBundle(_message.Message):
    __slots__ = ("name", "version", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    reason: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class AudioFormat(_message.Message):
    __slots__ = ("sample_rate_hz", "num_samples")
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    sample_rate_hz: int
    num_samples: int
    def __init__(self, sample_rate_hz: _Optional[int] = ..., num_samples: _Optional[int] = ...) -> None: ...

class ImageFormat(_message.Message):
    __slots__ = ("height", "width", "how", "shorter_side", "halves")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HOW_FIELD_NUMBER: _ClassVar[int]
    SHORTER_SIDE_FIELD_NUMBER: _ClassVar[int]
    HALVES_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    how: str
    shorter_side: int
    halves: str
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., how: _Optional[str] = ..., shorter_side: _Optional[int] = ..., halves: _Optional[str] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Detector(_message.Message):
    __slots__ = ("name", "num_calibration_rows", "smallest_p_value", "smallest_conditional_p_value", "delta", "calibration_sha256", "method", "calibration")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_CALIBRATION_ROWS_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_P_VALUE_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_CONDITIONAL_P_VALUE_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_SHA256_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_calibration_rows: int
    smallest_p_value: float
    smallest_conditional_p_value: float
    delta: float
    calibration_sha256: str
    method: str
    calibration: str
    def __init__(self, name: _Optional[str] = ..., num_calibration_rows: _Optional[int] = ..., smallest_p_value: _Optional[float] = ..., smallest_conditional_p_value: _Optional[float] = ..., delta: _Optional[float] = ..., calibration_sha256: _Optional[str] = ..., method: _Optional[str] = ..., calibration: _Optional[str] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("name", "value", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    data: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., data: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "embedding_space", "modality", "input", "outputs", "detectors", "default_alpha", "execution_provider", "method", "data", "created_at", "evaluations", "audio", "resize", "source", "image", "map_detector")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SPACE_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    DETECTORS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_ALPHA_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MAP_DETECTOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    embedding_space: str
    modality: Modality
    input: TensorSpec
    outputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    detectors: _containers.RepeatedCompositeFieldContainer[Detector]
    default_alpha: float
    execution_provider: str
    method: str
    data: str
    created_at: str
    evaluations: _containers.RepeatedCompositeFieldContainer[Evaluation]
    audio: AudioFormat
    resize: str
    source: str
    image: ImageFormat
    map_detector: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., embedding_space: _Optional[str] = ..., modality: _Optional[_Union[Modality, str]] = ..., input: _Optional[_Union[TensorSpec, _Mapping]] = ..., outputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., detectors: _Optional[_Iterable[_Union[Detector, _Mapping]]] = ..., default_alpha: _Optional[float] = ..., execution_provider: _Optional[str] = ..., method: _Optional[str] = ..., data: _Optional[str] = ..., created_at: _Optional[str] = ..., evaluations: _Optional[_Iterable[_Union[Evaluation, _Mapping]]] = ..., audio: _Optional[_Union[AudioFormat, _Mapping]] = ..., resize: _Optional[str] = ..., source: _Optional[str] = ..., image: _Optional[_Union[ImageFormat, _Mapping]] = ..., map_detector: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_rows_per_request", "max_bytes_per_request", "max_bytes_per_item", "max_pixels_per_item", "max_pixels_per_request")
    MAX_ROWS_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_PER_ITEM_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_PER_ITEM_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    max_rows_per_request: int
    max_bytes_per_request: int
    max_bytes_per_item: int
    max_pixels_per_item: int
    max_pixels_per_request: int
    def __init__(self, max_rows_per_request: _Optional[int] = ..., max_bytes_per_request: _Optional[int] = ..., max_bytes_per_item: _Optional[int] = ..., max_pixels_per_item: _Optional[int] = ..., max_pixels_per_request: _Optional[int] = ...) -> None: ...
