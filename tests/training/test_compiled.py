"""What is read from compiled programs, against programs written out here."""

import jax
import jax.numpy as jnp
import pytest

from ssr_jax.training import compiled

HLO = """
HloModule jit_step, is_scheduled=true, num_partitions=16

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%all-reduce-scatter.1 (p: f32[64,128]) -> f32[16,128] {
  %all-reduce.9 = f32[64,128]{1,0:T(8,128)} all-reduce(%p), channel_id=9, replica_groups=[4,4]<=[16], to_apply=%add
  ROOT %slice = f32[16,128]{1,0:T(8,128)} dynamic-slice(%all-reduce.9, %i, %z), dynamic_slice_sizes={16,128}
}

%body (w: (s32[], bf16[256,4096])) -> (s32[], bf16[256,4096]) {
  %all-gather.8 = bf16[256,4096]{1,0:T(8,128)(2,1)S(1)} all-gather(%x), channel_id=1, replica_groups=[4,4]<=[16]
  %all-reduce.4 = (bf16[8,128]{1,0:T(8,128)}, f32[128]{0:T(128)}) all-reduce(%y, %z), channel_id=4, to_apply=%add
  ROOT %tuple = (s32[]{:T(128)}, bf16[256,4096]{1,0}) tuple(%n, %all-gather.8)
}

%condition (w: (s32[], bf16[256,4096])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[]{:T(512)} compare(%n, %limit), direction=LT
}

ENTRY %main (p0: f32[64,128]) -> f32[16,128] {
  %ag = (f32[2,128]{1,0}, f32[8,128]{1,0}) all-gather-start(%p0), \
channel_id=2, replica_groups=[4,4]<=[16], dimensions={0}
  %agd = f32[8,128]{1,0} all-gather-done(%ag)
  %cp = (f32[2,128]{1,0}, f32[2,128]{1,0}, u32[], u32[]) collective-permute-start(%p0), source_target_pairs={{0,1}}
  %rs = f32[4,128]{1,0} reduce-scatter(%q), channel_id=3, replica_groups={{0,1},{2,3}}, dimensions={0}, to_apply=%add
  %while = (s32[]{:T(128)}, bf16[256,4096]{1,0}) while(%t), condition=%condition, body=%body
  ROOT %out = f32[16,128]{1,0:T(8,128)} fusion(%p0), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_collectives_are_counted_as_often_as_they_run():
  found, complete = compiled.collectives(HLO)
  assert complete
  assert found == {
    'all-gather': (5 + 1, 5 * 256 * 4096 * 2 + 8 * 128 * 4),
    'all-reduce': (5, 5 * (8 * 128 * 2 + 128 * 4)),
    'collective-permute': (1, 2 * 128 * 4),
    'reduce-scatter': (2, 64 * 128 * 4 + 2 * 4 * 128 * 4),
  }


@pytest.mark.parametrize(
  'groups',
  [
    '[2,4]<=[8]',
    '{{0,1,2,3},{4,5,6,7}}',
    "mesh['a'=2,'b'=4] {'b'}",
    "mesh['a'=4,'b'=2] {'a':(1)2,'b'}",
  ],
)
def test_a_reduce_scatter_counts_what_is_reduced(groups):
  """As XLA writes it for TPUs and for GPUs, in one piece and begun: the whole array, not the slice that stays."""
  of = lambda instruction: (
    f"""
ENTRY %main (p: f32[4,8]) -> f32[1,8] {{
  %p = f32[4,8]{{1,0}} parameter(0)
  {instruction}, channel_id=1, replica_groups={groups}, dimensions={{0}}, to_apply=%add
}}
"""
  )
  whole = {'reduce-scatter': (1, 4 * 8 * 4)}
  assert compiled.collectives(of('ROOT %r = f32[1,8]{1,0} reduce-scatter(%p)')) == (whole, True)
  begun = '%r = ((f32[4,8]{1,0}), f32[1,8]{1,0}) reduce-scatter-start(%p)'
  assert compiled.collectives(of(begun)) == (whole, True)


def test_a_loop_of_unknown_length_is_told():
  found, complete = compiled.collectives(HLO.replace('direction=LT', 'direction=NE'))
  assert not complete and found['all-reduce'][0] == 1


def test_a_loop_runs_as_often_as_the_compiler_says():
  hlo = HLO.replace('direction=LT', 'direction=NE').replace(
    'body=%body', 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
  )
  found, complete = compiled.collectives(hlo)
  assert complete and found['all-reduce'][0] == 7


def test_a_loop_of_unknown_length_in_which_nothing_is_sent_leaves_nothing_out():
  silent = '\n'.join(
    line
    for line in HLO.replace('direction=LT', 'direction=NE').splitlines()
    if 'all-gather.8 =' not in line and 'all-reduce.4 =' not in line
  )
  found, complete = compiled.collectives(silent)
  assert complete and 'all-reduce' not in found


def test_more_than_there_is_room_for_does_not_fit():
  """The compiler for GPUs says nothing: its programs are held against the memory."""
  program = jax.jit(lambda x: x + 1).lower(jnp.zeros((1 << 20,)))
  need = compiled.compile_lowered(program, 2**23)
  assert need.fits and need.needed >= 2**23 - need.temporaries and not need.complaint
  need = compiled.compile_lowered(program, 2**23 - 1)
  assert not need.fits and need.complaint == '0.01 GiB, and there are 0.01'
