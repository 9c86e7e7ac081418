"""The public names with their types; `__init__.py` loads them when they are first used."""

from ctpatch.checking.audit import AuditReport as AuditReport
from ctpatch.checking.audit import audit as audit
from ctpatch.checking.verify import verify as verify
from ctpatch.config import PatchConfig as PatchConfig
from ctpatch.config import Rule as Rule
from ctpatch.core.grid import sliding_window_coords as sliding_window_coords
from ctpatch.core.patches import extract_patches_2d as extract_patches_2d
from ctpatch.core.reassembly import Reassembler as Reassembler
from ctpatch.core.reassembly import reassemble as reassemble
from ctpatch.core.seams import seam_error as seam_error
from ctpatch.cutting.api import build as build
from ctpatch.cutting.convert import convert as convert
from ctpatch.cutting.plan import plan as plan
from ctpatch.cutting.result import BuildResult as BuildResult
from ctpatch.cutting.shares import ShareResult as ShareResult
from ctpatch.cutting.shares import build_share as build_share
from ctpatch.cutting.shares import merge as merge
from ctpatch.errors import CtPatchError as CtPatchError
from ctpatch.evaluating.api import evaluate as evaluate
from ctpatch.evaluating.result import Evaluation as Evaluation
from ctpatch.inspecting.api import inspect as inspect
from ctpatch.inspecting.result import Inspection as Inspection
from ctpatch.loading.transforms import FlipsAndRotations as FlipsAndRotations
from ctpatch.loading.transforms import in_callers_thread as in_callers_thread
from ctpatch.loading.transforms import per_patch as per_patch
from ctpatch.loading.windows import LabelWindows as LabelWindows
from ctpatch.loading.windows import RandomWindows as RandomWindows
from ctpatch.predicting.predict import predict as predict
from ctpatch.prepare.api import prepare_dicom as prepare_dicom
from ctpatch.prepare.api import prepare_lodopab as prepare_lodopab
from ctpatch.prepare.api import prepare_nifti as prepare_nifti
from ctpatch.prepare.api import prepare_raw as prepare_raw
from ctpatch.prepare.formats import prepare_images as prepare_images
from ctpatch.prepare.formats import prepare_metaimage as prepare_metaimage
from ctpatch.prepare.formats import prepare_nrrd as prepare_nrrd
from ctpatch.prepare.formats import prepare_numpy as prepare_numpy
from ctpatch.prepare.pipeline import PrepareResult as PrepareResult
from ctpatch.reading.patchset import PatchSet as PatchSet
from ctpatch.reading.patchset import open_set as _open_set
from ctpatch.reading.slice_set import SliceSet as SliceSet
from ctpatch.reading.slice_set import open_slices as open_slices
from ctpatch.reporting import report as report
from ctpatch.reporting.evaluation import evaluation_page as evaluation_page

__all__: list[str]
__version__: str
open = _open_set
