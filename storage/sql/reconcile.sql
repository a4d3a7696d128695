-- The books must balance: every view here is empty unless something is wrong.
--
-- Each looks for suspects first: problems whose rows, taken together, do not balance. Only those are gone through row
-- by row, which takes a third of the time. Problems are told apart by a hash of their key: where two have the same,
-- what balances for each balances for both. Subtasks are taken together with a weight for each place, so that what is
-- too much in one and too little in another does not balance.

-- Costs: what a parent says against the sum of its children.
create or replace view reconcile_cost as
with signed as (
    select
        hash(run_id, problem_id, rollout) as problem, cost_usd as total, router_cost_usd as router, 0::double as steps
    from trajectories
    union all
    select hash(run_id, problem_id, rollout), 0, 0, cost_usd * (1 + hash(subtask_index) % 1000003 / 1e6)
    from subtasks
    union all
    select
        hash(run_id, problem_id, rollout), -cost_usd, if(purpose in ('decompose', 'allocate'), -cost_usd, 0),
        if(subtask_index is null, 0, -cost_usd * (1 + hash(subtask_index) % 1000003 / 1e6))
    from calls
),
suspects as materialized (
    select problem
    from signed
    group by problem
    having not (abs(sum(total)) <= 1e-13 and abs(sum(router)) <= 1e-13 and abs(sum(steps)) <= 1e-13)
),
its_trajectories as (from trajectories where hash(run_id, problem_id, rollout) in (from suspects)),
its_subtasks as (from subtasks where hash(run_id, problem_id, rollout) in (from suspects)),
its_calls as (from calls where hash(run_id, problem_id, rollout) in (from suspects)),
by_problem as (
    select
        run_id, problem_id, rollout,
        sum(cost_usd) as cost_usd,
        coalesce(sum(cost_usd) filter (purpose in ('decompose', 'allocate')), 0) as router_cost_usd
    from its_calls
    group by run_id, problem_id, rollout
),
by_subtask as (
    select run_id, problem_id, rollout, subtask_index, sum(cost_usd) as cost_usd
    from its_calls
    where subtask_index is not null
    group by run_id, problem_id, rollout, subtask_index
),
by_run as (
    select run_id, sum(cost_usd) as cost_usd from trajectories group by run_id
),
compared as (
    select
        'trajectories.cost_usd' as what, run_id, problem_id, rollout, null as subtask_index,
        t.cost_usd as stored, c.cost_usd as summed
    from its_trajectories as t left join by_problem as c using (run_id, problem_id, rollout)
    union all
    select 'trajectories.router_cost_usd', run_id, problem_id, rollout, null, t.router_cost_usd, c.router_cost_usd
    from its_trajectories as t left join by_problem as c using (run_id, problem_id, rollout)
    union all
    select 'subtasks.cost_usd', run_id, problem_id, rollout, subtask_index, s.cost_usd, c.cost_usd
    from its_subtasks as s left join by_subtask as c using (run_id, problem_id, rollout, subtask_index)
    union all
    -- What calls lost in a kill may have cost is part of the run, and of no trajectory.
    select 'runs.cost_usd', run_id, null, null, null,
        if(r.n_calls_lost > 0, least(r.cost_usd, t.cost_usd), r.cost_usd), t.cost_usd
    from runs_latest as r left join by_run as t using (run_id)
    where r.n_deferred = 0 and r.status in ('completed', 'completed_with_errors')
)
select what, run_id, problem_id, rollout, subtask_index, stored, coalesce(summed, 0) as summed
from compared
where abs(stored - coalesce(summed, 0)) > 1e-12 + 1e-9 * abs(stored);
comment on view reconcile_cost is
    'Must be empty: stored costs that differ from the sum of the calls (of the trajectories, for a run that is '
    'complete; a run with calls lost in a kill may have cost more)';
comment on column reconcile_cost.what is 'the column that is checked';
comment on column reconcile_cost.run_id is 'see runs';
comment on column reconcile_cost.problem_id is 'see trajectories; null for a run';
comment on column reconcile_cost.rollout is 'see trajectories; null for a run';
comment on column reconcile_cost.subtask_index is 'see subtasks; null for a trajectory or a run';
comment on column reconcile_cost.stored is 'USD as stored on the parent';
comment on column reconcile_cost.summed is 'USD summed over its children';

-- Tokens, in the same way.
create or replace view reconcile_tokens as
with signed as (
    select
        hash(run_id, problem_id, rollout) as problem, input_tokens as input, cached_input_tokens as cached,
        output_tokens as output, 0::bigint as steps
    from trajectories
    union all
    select
        hash(run_id, problem_id, rollout), 0, 0, 0,
        (input_tokens + 1009 * output_tokens) * (1 + hash(subtask_index) % 1000003)::bigint
    from subtasks
    union all
    select
        hash(run_id, problem_id, rollout), -input_tokens, -cached_input_tokens, -output_tokens,
        if(
            subtask_index is null, 0,
            -(input_tokens + 1009 * output_tokens) * (1 + hash(subtask_index) % 1000003)::bigint
        )
    from calls
),
suspects as materialized (
    select problem
    from signed
    group by problem
    having sum(input) <> 0 or sum(cached) <> 0 or sum(output) <> 0 or sum(steps) <> 0
),
its_trajectories as (from trajectories where hash(run_id, problem_id, rollout) in (from suspects)),
its_subtasks as (from subtasks where hash(run_id, problem_id, rollout) in (from suspects)),
its_calls as (from calls where hash(run_id, problem_id, rollout) in (from suspects)),
by_problem as (
    select
        run_id, problem_id, rollout,
        sum(input_tokens)::bigint as input_tokens,
        sum(cached_input_tokens)::bigint as cached_input_tokens,
        sum(output_tokens)::bigint as output_tokens
    from its_calls
    group by run_id, problem_id, rollout
),
by_subtask as (
    select
        run_id, problem_id, rollout, subtask_index,
        sum(input_tokens)::bigint as input_tokens,
        sum(output_tokens)::bigint as output_tokens
    from its_calls
    where subtask_index is not null
    group by run_id, problem_id, rollout, subtask_index
),
compared as (
    select
        'trajectories' as what, run_id, problem_id, rollout, null as subtask_index,
        [t.input_tokens, t.cached_input_tokens, t.output_tokens] as stored,
        [coalesce(c.input_tokens, 0), coalesce(c.cached_input_tokens, 0), coalesce(c.output_tokens, 0)] as summed
    from its_trajectories as t left join by_problem as c using (run_id, problem_id, rollout)
    where t.input_tokens <> coalesce(c.input_tokens, 0) or t.cached_input_tokens <> coalesce(c.cached_input_tokens, 0)
        or t.output_tokens <> coalesce(c.output_tokens, 0)
    union all
    select
        'subtasks', run_id, problem_id, rollout, subtask_index,
        [s.input_tokens, s.output_tokens], [coalesce(c.input_tokens, 0), coalesce(c.output_tokens, 0)]
    from its_subtasks as s left join by_subtask as c using (run_id, problem_id, rollout, subtask_index)
    where s.input_tokens <> coalesce(c.input_tokens, 0) or s.output_tokens <> coalesce(c.output_tokens, 0)
)
select * from compared;
comment on view reconcile_tokens is 'Must be empty: stored token counts that differ from the sum of the calls';
comment on column reconcile_tokens.what is 'the table that is checked';
comment on column reconcile_tokens.run_id is 'see runs';
comment on column reconcile_tokens.problem_id is 'see trajectories';
comment on column reconcile_tokens.rollout is 'see trajectories';
comment on column reconcile_tokens.subtask_index is 'see subtasks; null for a trajectory';
comment on column reconcile_tokens.stored is 'tokens on the parent: input, cached input (trajectories only), output';
comment on column reconcile_tokens.summed is 'the same, summed over its calls';

-- Counts. A run that a later session works on may have more rows than its newest record says, and is not listed for it.
create or replace view reconcile_counts as
with settled as (
    select
        run_id,
        count(*) filter (status = 'answered') as n_answered,
        count(*) filter (status = 'failed') as n_failed
    from trajectories
    group by run_id
),
signed as (
    select
        hash(run_id, problem_id, rollout) as problem, n_attempts, n_calls, null as call_index,
        if(method <> 'label' and status = 'answered' and n_subtasks > 0, n_subtasks, null) as n_subtasks, 0 as n_steps
    from trajectories
    union all
    select hash(run_id, problem_id, rollout), -1, null, call_index, null, 0 from calls
    union all
    select hash(run_id, problem_id, rollout), 0, null, null, null, 1 from subtasks
),
suspects as materialized (
    select problem
    from signed
    group by problem
    having sum(n_attempts) <> 0 or max(n_calls) <= max(call_index) or max(n_subtasks) <> sum(n_steps)
),
its_trajectories as (from trajectories where hash(run_id, problem_id, rollout) in (from suspects)),
its_subtasks as (from subtasks where hash(run_id, problem_id, rollout) in (from suspects)),
its_calls as (from calls where hash(run_id, problem_id, rollout) in (from suspects)),
by_problem as (
    select run_id, problem_id, rollout, count(*) as n_attempts, count(distinct call_index) as n_calls
    from its_calls
    group by run_id, problem_id, rollout
),
steps as (
    select run_id, problem_id, rollout, count(*) as n_subtasks from its_subtasks group by run_id, problem_id, rollout
),
compared as (
    select
        'runs.n_answered + n_failed' as what, run_id, null as problem_id, null as rollout,
        r.n_answered + r.n_failed as stored, coalesce(s.n_answered + s.n_failed, 0) as counted
    from runs_latest as r left join settled as s using (run_id)
    where r.kind <> 'sft'  -- it counts rows of label sets, which are no trajectories
        and (stored > counted or (stored <> counted and r.status in ('completed', 'completed_with_errors')))
    union all
    select 'runs.n_requested', run_id, null, null, n_requested, n_answered + n_failed + n_deferred
    from runs_latest
    where n_requested <> n_answered + n_failed + n_deferred
    union all
    select 'trajectories.n_attempts', run_id, problem_id, rollout, t.n_attempts, coalesce(c.n_attempts, 0)
    from its_trajectories as t left join by_problem as c using (run_id, problem_id, rollout)
    where t.n_attempts <> coalesce(c.n_attempts, 0)
    union all
    select 'trajectories.n_calls', run_id, problem_id, rollout, t.n_calls, c.n_calls
    from its_trajectories as t join by_problem as c using (run_id, problem_id, rollout)
    where t.n_calls < c.n_calls
    union all
    select 'trajectories.n_subtasks', run_id, problem_id, rollout, t.n_subtasks, coalesce(s.n_subtasks, 0)
    from its_trajectories as t left join steps as s using (run_id, problem_id, rollout)
    where t.method <> 'label' and t.status = 'answered'
        and t.n_subtasks > 0 and t.n_subtasks <> coalesce(s.n_subtasks, 0)
)
select * from compared;
comment on view reconcile_counts is 'Must be empty: stored counts that differ from the rows';
comment on column reconcile_counts.what is 'the column that is checked';
comment on column reconcile_counts.run_id is 'see runs';
comment on column reconcile_counts.problem_id is 'see trajectories; null for a run';
comment on column reconcile_counts.rollout is 'see trajectories; null for a run';
comment on column reconcile_counts.stored is 'the count as stored';
comment on column reconcile_counts.counted is 'the rows there are';

-- Keys that occur twice: of subtasks and calls among problems that have more rows than places.
create or replace view reconcile_duplicates as
with doubled as materialized (
    select hash(run_id, problem_id, rollout) as problem from trajectories group by problem having count(*) > 1
),
crowded_steps as materialized (
    select hash(run_id, problem_id, rollout) as problem
    from subtasks
    group by problem
    having count(*) <> bit_count(bit_or(1::ubigint << (subtask_index & 63)))
),
crowded_calls as materialized (
    select hash(run_id, problem_id, rollout) as problem
    from calls
    group by problem
    having count(*) <> bit_count(bit_or(1::ubigint << (call_index & 63)))
)
select
    'trajectories' as what, run_id, problem_id, rollout,
    null as subtask_index, null as call_index, null as attempt, count(*) as n
from trajectories
where hash(run_id, problem_id, rollout) in (from doubled)
group by run_id, problem_id, rollout
having count(*) > 1
union all
select 'subtasks', run_id, problem_id, rollout, subtask_index, null, null, count(*)
from subtasks
where hash(run_id, problem_id, rollout) in (from crowded_steps)
group by run_id, problem_id, rollout, subtask_index
having count(*) > 1
union all
select 'calls', run_id, problem_id, rollout, null, call_index, attempt, count(*)
from calls
where hash(run_id, problem_id, rollout) in (from crowded_calls)
group by run_id, problem_id, rollout, call_index, attempt
having count(*) > 1
union all
select 'candidates: ' || kind, run_id, problem_id, rollout, trial_index, null, null, count(*)
from candidates
group by run_id, problem_id, rollout, kind, trial_index
having count(*) > 1;
comment on view reconcile_duplicates is 'Must be empty: keys that occur more than once';
comment on column reconcile_duplicates.what is 'the table';
comment on column reconcile_duplicates.run_id is 'see runs';
comment on column reconcile_duplicates.problem_id is 'see trajectories';
comment on column reconcile_duplicates.rollout is 'see trajectories';
comment on column reconcile_duplicates.subtask_index is
    'see subtasks; trial_index of candidates; null for other tables';
comment on column reconcile_duplicates.call_index is 'see calls; null for other tables';
comment on column reconcile_duplicates.attempt is 'see calls; null for other tables';
comment on column reconcile_duplicates.n is 'how often';
