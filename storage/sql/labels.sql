-- What labelling came to: what was kept and why the rest was not, how far searches went, and whether scores and
-- confidences tell.

-- Kept and dropped problems, with what they cost.
create or replace view label_yield as
select
    run_id,
    benchmark,
    coalesce(error_type, 'kept') as outcome,
    count(*) as n_problems,
    count(*) / sum(count(*)) over (partition by run_id, benchmark) as problem_share,
    sum(cost_usd) as cost_usd,
    avg(n_calls) as mean_calls
from trajectories
where method = 'label' and status <> 'deferred'
group by run_id, benchmark, error_type;
comment on view label_yield is 'Labelling runs: problems kept, and dropped by reason, with their cost';
comment on column label_yield.run_id is 'see runs';
comment on column label_yield.benchmark is 'check that was applied';
comment on column label_yield.outcome is 'kept, or why the problem gives no label';
comment on column label_yield.n_problems is 'problems that ended so';
comment on column label_yield.problem_share is '0..1 of the benchmark''s settled problems in the run';
comment on column label_yield.cost_usd is 'USD paid for them: teacher, judge, executions';
comment on column label_yield.mean_calls is 'mean model calls per problem';

-- How many allocations a plan took, and what the search brought.
create or replace view search_depth as
with searched as (
    select
        run_id, problem_id, rollout,
        any_value(n_subtasks) as n_subtasks,
        count(*) as n_executions,
        bool_or(is_correct) as is_found,
        arg_min(is_correct, trial_index) as is_right_at_once,
        arg_min(cost_usd, trial_index) as first_cost_usd,
        min(cost_usd) filter (is_target) as target_cost_usd
    from candidates
    where kind = 'allocation'
    group by run_id, problem_id, rollout
)
select
    run_id,
    n_subtasks,
    count(*) as n_plans,
    avg(n_executions) as mean_executions,
    max(n_executions) as max_executions,
    avg(is_right_at_once::int) as right_at_once_share,
    avg(is_found::int) as found_share,
    avg(target_cost_usd) as mean_target_cost_usd,
    avg(first_cost_usd) filter (is_found) as mean_first_cost_usd
from searched
group by run_id, n_subtasks;
comment on view search_depth is
    'Allocation search by length of the plan: executions per plan, and the cost it started from and came to';
comment on column search_depth.run_id is 'see runs';
comment on column search_depth.n_subtasks is 'subtasks of the plan, 0 for a direct plan';
comment on column search_depth.n_plans is 'plans that were searched';
comment on column search_depth.mean_executions is 'mean allocations executed per plan';
comment on column search_depth.max_executions is 'most allocations executed for one plan';
comment on column search_depth.right_at_once_share is '0..1 of the plans whose first allocation was right';
comment on column search_depth.found_share is '0..1 of the plans with a right allocation';
comment on column search_depth.mean_target_cost_usd is
    'USD of an execution of the target, mean over plans that have one';
comment on column search_depth.mean_first_cost_usd is 'USD of the first execution, mean over the same plans';

-- Whether a lower score goes with a right execution: the premise of choosing by score.
create or replace view score_vs_outcome as
with ranked as (
    select
        run_id, score, conciseness, practicality, coherence, judge, is_correct, is_target,
        ntile(4) over (partition by run_id order by score) as quartile
    from candidates
    where kind = 'plan' and score is not null
)
select
    run_id,
    quartile,
    count(*) as n_plans,
    min(score) as min_score,
    max(score) as max_score,
    avg(conciseness) as mean_conciseness,
    avg(practicality) as mean_practicality,
    avg(coherence) as mean_coherence,
    avg((judge = 'lexical')::int) as lexical_share,
    avg(is_correct::int) as right_share,
    avg(is_target::int) as target_share
from ranked
group by run_id, quartile;
comment on view score_vs_outcome is 'Candidate plans in quartiles of their score (1 has the best): how many were right';
comment on column score_vs_outcome.run_id is 'see runs';
comment on column score_vs_outcome.quartile is '1 best score .. 4 worst, within the run';
comment on column score_vs_outcome.n_plans is 'candidates executed';
comment on column score_vs_outcome.min_score is 'lowest score of the quartile';
comment on column score_vs_outcome.max_score is 'highest score of the quartile';
comment on column score_vs_outcome.mean_conciseness is 'mean of the score''s first part, 0..1';
comment on column score_vs_outcome.mean_practicality is 'mean of its second part, 0..1';
comment on column score_vs_outcome.mean_coherence is 'mean of its third part, 0..1';
comment on column score_vs_outcome.lexical_share is
    '0..1 judged by words, because no judge was named or it gave no number';
comment on column score_vs_outcome.right_share is '0..1 whose execution with M_eval was right';
comment on column score_vs_outcome.target_share is '0..1 that became the training target';

-- Whether p_alpha, the confidence in a subtask, tells that a small model is enough for it: the premise of starting by
-- confidence.
create or replace view difficulty_calibration as
with steps as (
    select
        run_id, confidence_source, unnest(confidences) as confidence,
        unnest([(tier = 'small')::int for tier in tiers]) as is_easy
    from candidates
    where kind = 'allocation' and is_target
),
ranked as (
    select
        *,
        rank() over (partition by run_id, confidence_source order by confidence)
            + (count(*) over (partition by run_id, confidence_source, confidence) - 1) / 2 as mean_rank,
        least(9, floor(confidence * 10)) as bin
    from steps
),
by_bin as (
    select run_id, confidence_source, bin, count(*) as n, abs(avg(confidence) - avg(is_easy)) as gap
    from ranked
    group by run_id, confidence_source, bin
),
calibrated as (
    select run_id, confidence_source, sum(n * gap) / sum(n) as ece from by_bin group by run_id, confidence_source
)
select
    run_id,
    confidence_source,
    count(*) as n_subtasks,
    sum(is_easy)::bigint as n_easy,
    avg(confidence) as mean_confidence,
    (sum(mean_rank) filter (is_easy = 1) - sum(is_easy) * (sum(is_easy) + 1) / 2)
        / nullif(sum(is_easy) * (count(*) - sum(is_easy)), 0) as auroc,
    any_value(ece) as ece
from ranked join calibrated using (run_id, confidence_source)
group by run_id, confidence_source;
comment on view difficulty_calibration is
    'Whether confidence in a subtask predicts that a small model is enough for it in the target allocation';
comment on column difficulty_calibration.run_id is 'see runs';
comment on column difficulty_calibration.confidence_source is 'logprobs, or agreement over further answers';
comment on column difficulty_calibration.n_subtasks is 'subtasks of target allocations';
comment on column difficulty_calibration.n_easy is 'of them, those whose target model is small';
comment on column difficulty_calibration.mean_confidence is 'mean p_alpha, 0..1';
comment on column difficulty_calibration.auroc is
    'chance that an easy subtask has the higher confidence, ties counted half; null if all are alike';
comment on column difficulty_calibration.ece is
    'expected calibration error over ten bins: mean gap between confidence and share of easy subtasks, 0..1';

-- Which subtask needed its model: allocations that differ from the target in that subtask alone, and how many of them
-- were wrong.
create or replace view credit as
with targets as (
    select run_id, problem_id, rollout, benchmark, models, tiers, confidences
    from candidates
    where kind = 'allocation' and is_target
),
steps as (
    select *, unnest(range(len(models))) as subtask_index from targets
),
swaps as (
    select
        c.run_id, c.problem_id, c.rollout, c.is_correct,
        list_filter(range(len(t.models)), lambda i: c.models[i + 1] <> t.models[i + 1]) as changed
    from candidates as c join targets as t using (run_id, problem_id, rollout)
    where c.kind = 'allocation' and not c.is_target
),
singles as (
    select
        run_id, problem_id, rollout, changed[1] as subtask_index,
        count(*) as n, count(*) filter (not is_correct) as n_wrong
    from swaps
    where len(changed) = 1
    group by all
)
select
    run_id,
    problem_id,
    rollout,
    benchmark,
    subtask_index,
    len(models) as n_subtasks,
    models[subtask_index + 1] as model,
    tiers[subtask_index + 1] as tier,
    confidences[subtask_index + 1] as confidence,
    coalesce(n, 0) as n_swaps,
    coalesce(n_wrong, 0) as n_wrong_swaps
from steps left join singles using (run_id, problem_id, rollout, subtask_index);
comment on view credit is
    'Subtasks of target allocations: the model each got, and how often another model in its place alone made the '
    'answer wrong';
comment on column credit.run_id is 'see runs';
comment on column credit.problem_id is 'see trajectories';
comment on column credit.rollout is 'see trajectories';
comment on column credit.benchmark is 'check that was applied';
comment on column credit.subtask_index is '0-based place in the plan';
comment on column credit.n_subtasks is 'subtasks of the plan; 1 for a direct plan';
comment on column credit.model is 'pool entry of the target';
comment on column credit.tier is 'its tier: small, medium, large';
comment on column credit.confidence is 'p_alpha of the subtask, 0..1';
comment on column credit.n_swaps is 'allocations tried that differ from the target in this subtask alone';
comment on column credit.n_wrong_swaps is 'of them wrong: above 0, the subtask needed a model like its own';
