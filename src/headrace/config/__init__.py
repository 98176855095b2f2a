"""The one place that reads flags and environment variables."""

from headrace.config.environment import child_environment as child_environment
from headrace.config.environment import hub_access as hub_access
from headrace.config.environment import ray_address as ray_address
from headrace.config.environment import visible_cuda_devices as visible_cuda_devices
from headrace.config.options import IGNORED_ENVIRONMENT as IGNORED_ENVIRONMENT
from headrace.config.options import add_arguments as add_arguments
from headrace.config.options import environment_names as environment_names
from headrace.config.options import parse as parse
from headrace.config.options import resolve as resolve
from headrace.config.settings import QuantizeName as QuantizeName
from headrace.config.settings import Settings as Settings
