"""Planning for slices that nobody owns: names, arithmetic, and the compiler where there is one."""

import dataclasses
import importlib.util
import json

import jax
import pytest

from jaxir.bench import workloads
from jaxir.config import Config, EncoderConfig, ModelConfig, ScaleConfig
from jaxir.errors import UserError
from jaxir.plan import __main__ as plan
from jaxir.plan.chips import find_slice, slices
from jaxir.plan.compiling import abstract_batch, bytes_needed
from jaxir.plan.largest_batch import memory_savings
from jaxir.plan.program import read_program
from jaxir.plan.roofline import StepCost, roofline
from jaxir.runtime.mesh import AXES

PROGRAM = """
%fused (param: bf16[4,8]) -> bf16[4,8] {
  %param = bf16[4,8]{1,0:T(8,128)} parameter(0)
  ROOT %twice = bf16[4,8]{1,0} add(%param, %param)
}

%layer (stack: bf16[12,4,8], number: s32[]) -> bf16[4,8] {
  %stack = bf16[12,4,8]{2,1,0} parameter(0)
  %number = s32[] parameter(1)
  %same = bf16[12,4,8]{2,1,0} bitcast(%stack)
  %slice = bf16[1,4,8]{2,1,0} dynamic-slice(%same, %number), dynamic_slice_sizes={1,4,8}
  ROOT %one = bf16[4,8]{1,0} bitcast(%slice)
}

%keep (stack.1: bf16[12,4,8], value: bf16[1,4,8], number.1: s32[]) -> bf16[12,4,8] {
  %stack.1 = bf16[12,4,8]{2,1,0} parameter(0)
  %value = bf16[1,4,8]{2,1,0} parameter(1)
  %number.1 = s32[] parameter(2)
  ROOT %kept = bf16[12,4,8]{2,1,0} dynamic-update-slice(%stack.1, %value, %number.1)
}

%body (arg: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%arg), index=1
  %near = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} fusion(%x), calls=%fused, {"estimated_cycles":"100"}
  %all-reduce.1 = bf16[4,8]{1,0} all-reduce(%near), metadata={op_name="step/shard_map/psum"}
}

%condition (arg: (s32[], bf16[4,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[] compare(%counter, %limit), direction=LT
}

ENTRY %main (p: bf16[4,8]) -> f32[16] {
  %p = bf16[4,8]{1,0} parameter(0)
  %loop = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,1)}) while(%i), condition=%condition, body=%body
  %all-gather.1 = f32[16]{0} all-gather(%part), channel_id=2
  %part = f32[4]{0} fusion(%p), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"7"}
}
"""


def test_a_slice_has_two_names():
    assert find_slice("v4-32") == find_slice("v4:2x2x4")
    assert find_slice("v4-32").chips == 16  # a chip has two cores
    assert find_slice("v5e-64").topology == "v5e:8x8"
    assert find_slice("v6e:3x5").name == "v6e-15"
    assert len({one.name for one in slices()}) == len(slices())


@pytest.mark.parametrize("name", ["v4-7", "v4:2x2", "v9:2x2x1", "", "v4:0x2x2"])
def test_an_unknown_slice_is_refused_with_the_list(name):
    with pytest.raises(UserError, match=r"there are v4-8 \(v4:2x2x1\), v4-16"):
        find_slice(name)


def test_bytes_and_cycles_of_a_program_count_loops_as_often_as_they_turn():
    traffic, collectives, cycles = read_program(PROGRAM)
    # in each of twelve turns a result in the chip's own memory, and its operand in HBM
    assert traffic == 12 * 4 * 8 * 2 + (4 * 8 * 2 + 4 * 4)
    assert collectives == {
        "all-reduce, parameters and gradients": 12 * 4 * 8 * 2,
        "all-gather, embeddings for the loss": 4 * 4,
    }
    assert cycles == 12 * 100 + 7


def test_of_a_stack_of_layers_only_a_slice_is_read_or_written():
    program = PROGRAM.replace(
        "  %loop =",
        "  %s = bf16[12,4,8]{2,1,0} parameter(1)\n"
        "  %n = s32[] parameter(2)\n"
        "  %read = bf16[4,8]{1,0} fusion(%s, %n), kind=kLoop, calls=%layer\n"
        "  %v = bf16[1,4,8]{2,1,0:S(1)} parameter(3)\n"
        "  %written = bf16[12,4,8]{2,1,0} fusion(%s, %v, %n), kind=kLoop, calls=%keep\n"
        "  %loop =",
    )
    row, number = 4 * 8 * 2, 4
    more = read_program(program)[0] - read_program(PROGRAM)[0]
    assert more == (row + number + row) + (row + number)


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory. Used 41.50G of 30.75G hbm.", 41.5 * 2**30),
        (
            "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (139.03G) exceeds "
            "available HBM (30.75G).",
            139.03 * 2**30,
        ),
        ("INTERNAL: Used 1.0G of 2.0G", None),
    ],
)
def test_a_refusal_says_how_much_was_needed(message, needed):
    assert bytes_needed(message) == needed


def test_the_slowest_resource_bounds_the_step():
    place = find_slice("v5e-8")
    cost = StepCost(True, 1e9, 1e8, 9e8, 197e12, 197e12, 819e9 / 2, {"all-reduce": 1e9}, 0.0)
    time = roofline(cost, place)
    assert (time.bound, time.seconds) == ("matrix units", 1.0)
    assert time.by_resource["HBM"] == 0.5
    more = dataclasses.replace(cost, hbm_bytes=819e9 * 3)
    assert roofline(more, place).bound == "HBM"


def test_ways_to_fit_add_one_thing_after_the_other():
    ways = dict(memory_savings(Config(scale=ScaleConfig(fsdp=True))))
    assert list(ways) == [
        "as configured",
        "rematerialize all but matmuls",
        "rematerialize whole layers",
        "gradient caching in chunks of 64 texts",
    ]
    last = ways["gradient caching in chunks of 64 texts"]
    assert (last.model.remat, last.scale.grad_cache_chunk) == ("layers", 64)
    assert ways["as configured"].model.remat == "none"


# ml_collections loads config files so
@pytest.mark.filterwarnings("ignore:the load_module")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config is missing"),
        (("--config", "tpu_v4.py"), "--topology is missing"),
        (("--config", "tpu_v4.py", "--topology", "v4-8", "--mfu", "0"), "--mfu 0"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        plan.main(["plan", *arguments])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2"])
def test_the_real_step_compiles_for_a_slice(topology, tmp_path):
    from jaxir.plan.compiling import plan_step
    from jaxir.plan.report import report_plan

    encoder = EncoderConfig(
        vocab_size=1_000,
        hidden_size=128,
        layers=3,
        heads=2,
        intermediate_size=256,
        positions=66,
        dropout=0.0,
        attention_dropout=0.0,
    )
    model = ModelConfig(encoder=encoder, max_query_tokens=32, max_passage_tokens=64)
    config = Config(batch_size=64, model=model)
    report_plan(config, topology, False, 0.4, tmp_path, tmp_path / "plan.json")
    report = json.loads((tmp_path / "plan.json").read_text())
    cost = report["per chip and step"]
    assert cost["fits"]
    assert 0 < cost["argument_bytes"] < cost["peak_bytes"] < 1e9
    assert cost["flops"] == cost["model_flops"] > 1e8
    # chunks do not make more messages: gradients are summed after all of them
    cached = dataclasses.replace(config, scale=ScaleConfig(grad_cache_chunk=4))
    place = find_slice(topology)
    again = plan_step(cached, place, tmp_path)
    ours, theirs = again.collective_bytes, cost["collective_bytes"]
    gradients = "all-reduce, parameters and gradients"
    assert ours[gradients] == theirs[gradients] > 0
    assert all(size <= theirs[name] for name, size in ours.items())
    assert again.flops > again.model_flops == cost["flops"]
    # and from its own JSON
    stored = set(tmp_path.glob("*.json"))
    assert plan_step(cached, place, tmp_path) == again
    assert set(tmp_path.glob("*.json")) == stored


@pytest.mark.parametrize("packed", [False, True])
def test_planned_batches_have_the_arrays_of_real_ones(packed):
    config = workloads.run_config("small", 256, "float32", 0, 0.0)
    config.model.packed_length *= packed
    mesh = jax.make_mesh((1, 8), AXES)
    # MLQA's mean, of which the batches are made
    planned = abstract_batch(config, mesh, tokens_per_pair=182)
    config.model.packed_length = 256
    real = workloads.synthetic_batches(config, 8)[packed][0]
    assert planned.keys() == real.keys()
    for name, array in real.items():
        assert planned[name].shape[1:] == array.shape[1:], name
        if not packed or not name.startswith("row_"):
            assert len(array) == planned[name].shape[0], name
    if packed:
        # the device that needs most rows decides for all
        assert 0.75 < planned["row_ids"].shape[0] / len(real["row_ids"]) <= 1.05
        longest = abstract_batch(config, mesh)["row_ids"].shape[0]
        assert longest == 8 * (32 + 8) > planned["row_ids"].shape[0]
