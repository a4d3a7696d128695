-- Who did the work, and what the allocator's choices came to.

-- Which models answered the subtasks.
create or replace view model_share as
select
    run_id,
    model,
    tier,
    count(*) as n_subtasks,
    count(*) / sum(count(*)) over (partition by run_id) as subtask_share,
    count(*) filter (is_escalated) as n_after_escalation,
    sum(cost_usd) as cost_usd,
    sum(cost_usd) / nullif(sum(sum(cost_usd)) over (partition by run_id), 0) as cost_share
from subtasks
group by run_id, model, tier;
comment on view model_share is 'Share of the subtasks that each model answered, per run; router calls are not subtasks';
comment on column model_share.run_id is 'see runs';
comment on column model_share.model is 'pool entry that answered last';
comment on column model_share.tier is 'its tier: small, medium, large';
comment on column model_share.n_subtasks is 'subtasks it answered; a direct plan has one';
comment on column model_share.subtask_share is '0..1 of the run''s subtasks';
comment on column model_share.n_after_escalation is 'of them, those it got because a check failed';
comment on column model_share.cost_usd is 'USD for these subtasks, their earlier attempts included';
comment on column model_share.cost_share is '0..1 of the cost of the run''s subtasks';

-- The same by how long the plan was, which stands for difficulty while no prediction of it is stored.
create or replace view model_share_by_difficulty as
select
    run_id,
    case when n_subtasks = 0 then '0 direct' when n_subtasks = 2 then '2' when n_subtasks <= 4 then '3-4' else '5+' end
        as difficulty,
    model,
    count(*) as n_subtasks,
    count(*) / sum(count(*)) over (partition by run_id, difficulty) as subtask_share,
    sum(subtasks.cost_usd) as cost_usd
from subtasks join trajectories using (run_id, problem_id, rollout)
group by run_id, difficulty, model;
comment on view model_share_by_difficulty is
    'Share of each model within problems of like difficulty, taken from the number of subtasks in the plan';
comment on column model_share_by_difficulty.run_id is 'see runs';
comment on column model_share_by_difficulty.difficulty is 'subtasks in the plan: 0 direct, 2, 3-4, 5+';
comment on column model_share_by_difficulty.model is 'pool entry that answered last';
comment on column model_share_by_difficulty.n_subtasks is 'subtasks it answered';
comment on column model_share_by_difficulty.subtask_share is '0..1 of the run''s subtasks of this difficulty';
comment on column model_share_by_difficulty.cost_usd is 'USD for these subtasks';

-- How often a subtask was passed on, by its place in the plan.
create or replace view deferral as
select
    run_id,
    subtask_index,
    tier,
    count(*) as n_subtasks,
    avg(is_escalated::int) as escalated_share,
    avg(is_fallback::int) as fallback_share,
    avg((error_type is not null)::int) as failed_share
from subtasks
group by run_id, subtask_index, tier;
comment on view deferral is
    'Share of subtasks passed on to another model, by place in the plan and by the tier where they ended';
comment on column deferral.run_id is 'see runs';
comment on column deferral.subtask_index is '0-based place in the plan';
comment on column deferral.tier is 'tier of the model that answered last';
comment on column deferral.n_subtasks is 'subtasks at this place that ended in this tier';
comment on column deferral.escalated_share is '0..1: a check failed and a stronger model was asked';
comment on column deferral.fallback_share is '0..1: the model was not available and another answered';
comment on column deferral.failed_share is '0..1: nobody gave a result';

-- From which model to which.
create or replace view escalations as
select
    run_id,
    allocated_model,
    model,
    count(*) filter (is_escalated) as n_escalated,
    count(*) filter (is_fallback) as n_fallbacks,
    count(*) filter (error_type is not null) as n_failed,
    sum(cost_usd) as cost_usd,
    avg(latency_s) as mean_latency_s
from subtasks
where is_escalated or is_fallback
group by run_id, allocated_model, model;
comment on view escalations is 'Subtasks that the allocated model did not finish alone: from which model to which';
comment on column escalations.run_id is 'see runs';
comment on column escalations.allocated_model is 'the allocator''s choice';
comment on column escalations.model is 'pool entry that answered last';
comment on column escalations.n_escalated is 'passed on because a check failed';
comment on column escalations.n_fallbacks is 'passed on because the model was not available';
comment on column escalations.n_failed is 'without a result in the end';
comment on column escalations.cost_usd is 'USD for these subtasks, all attempts';
comment on column escalations.mean_latency_s is 'mean time to the result, queues included, s';

-- Whether the allocator still chooses, or always names the same model.
create or replace view collapse as
with shares as (
    select run_id, allocated_model, count(*) as n, count(*) / sum(count(*)) over (partition by run_id) as share
    from subtasks
    group by run_id, allocated_model
)
select
    run_id,
    sum(n)::bigint as n_subtasks,
    count(*) as n_models,
    arg_max(allocated_model, share) as top_model,
    max(share) as top_share,
    sum(share * log2(1 / share)) as entropy_bits,
    pow(2, sum(share * log2(1 / share))) as effective_models
from shares
group by run_id;
comment on view collapse is 'How far the allocator''s choices have collapsed onto one model';
comment on column collapse.run_id is 'see runs';
comment on column collapse.n_subtasks is 'subtasks that were allocated';
comment on column collapse.n_models is 'models chosen at least once';
comment on column collapse.top_model is 'the model chosen most often';
comment on column collapse.top_share is '0..1 of the choices that named it';
comment on column collapse.entropy_bits is 'entropy of the choices, bits; 0 is total collapse';
comment on column collapse.effective_models is
    '2 to the power of the entropy: 1 is total collapse, n_models is an even spread';

-- What the rule of sequential routing decided, one row a decision.
create or replace view decisions as
with read as (
    select
        run_id,
        problem_id,
        rollout,
        benchmark,
        unnest(
            from_json(
                decisions,
                '[{"subtask_index": "INTEGER", "n_attempts": "INTEGER", "action": "VARCHAR", "arm": "VARCHAR",
                   "q": "DOUBLE", "v_usd": "DOUBLE", "value_usd": "DOUBLE", "cost_usd": "DOUBLE", "reason": "VARCHAR",
                   "candidates": [{"arm": "VARCHAR", "cost_usd": "DOUBLE", "p_right": "DOUBLE", "p1": "DOUBLE",
                                   "p0": "DOUBLE", "value_usd": "DOUBLE"}]}]'
            )
        ) as made,
        generate_subscripts(from_json(decisions, '["JSON"]'), 1) - 1 as decision_index
    from trajectories
    where decisions is not null
)
select
    run_id,
    problem_id,
    rollout,
    benchmark,
    decision_index,
    made.subtask_index as subtask_index,
    made.n_attempts as n_attempts,
    made.action as action,
    made.arm as arm,
    made.q as q,
    made.v_usd as v_usd,
    made.value_usd as value_usd,
    made.cost_usd as cost_usd,
    made.reason as reason,
    made.candidates as candidates
from read;
comment on view decisions is
    'What the rule of sequential routing decided (docs/method.md, section 10), one row a decision';
comment on column decisions.run_id is 'see runs';
comment on column decisions.problem_id is 'see trajectories';
comment on column decisions.rollout is 'see trajectories';
comment on column decisions.benchmark is 'copied from the trajectory';
comment on column decisions.decision_index is '0-based order within the trajectory';
comment on column decisions.subtask_index is '0-based place in the plan; null where it is about the question itself';
comment on column decisions.n_attempts is 'entries that had been asked about it before';
comment on column decisions.action is 'ask, accept, decompose';
comment on column decisions.arm is 'who was asked; null for the other actions';
comment on column decisions.q is 'believed probability that the best-supported result so far is right, 0..1';
comment on column decisions.v_usd is 'what a right result was worth, USD';
comment on column decisions.value_usd is 'expected value of going on by the rule, costs taken off, USD';
comment on column decisions.cost_usd is 'expected cost of the call that was made now, USD';
comment on column decisions.reason is
    'no_result_yet, worth_asking, asked_beside, unsure, plan_worth_more; why it stopped: not_worth_more, nobody_left, '
    'escalations_spent, budget, verified';
comment on column decisions.candidates is
    'who could have been asked and was looked into: expected cost, probability that its own result is right (p1 where '
    'the best-supported one is, p0 where it is not), and the value of asking it';

-- Whether what the rule believed is true: of questions that ended with an accepted result.
create or replace view calibration as
with accepted as (
    select run_id, benchmark, q, is_correct
    from decisions join trajectories using (run_id, problem_id, rollout, benchmark)
    where action = 'accept' and subtask_index is null and is_correct is not null
    qualify row_number() over (partition by run_id, problem_id, rollout order by decision_index desc) = 1
)
select
    run_id,
    case when q < 0.5 then '0 to 0.5' when q < 0.7 then '0.5 to 0.7' when q < 0.8 then '0.7 to 0.8'
        when q < 0.9 then '0.8 to 0.9' when q < 0.95 then '0.9 to 0.95' when q < 0.99 then '0.95 to 0.99'
        else '0.99 to 1' end as q_range,
    count(*) as n_questions,
    avg(q) as mean_q,
    avg(is_correct::int) as accuracy,
    wilson_bound(count(*) filter (is_correct), count(*), -1.959964) as accuracy_low,
    wilson_bound(count(*) filter (is_correct), count(*), 1.959964) as accuracy_high
from accepted
group by run_id, q_range;
comment on view calibration is
    'What the rule believed of the answers it accepted, against how many of them were right; answers of plans are left '
    'out';
comment on column calibration.run_id is 'see runs';
comment on column calibration.q_range is 'range of the believed probability';
comment on column calibration.n_questions is 'checked questions whose answer was accepted at such a probability';
comment on column calibration.mean_q is 'mean of the believed probabilities, 0..1';
comment on column calibration.accuracy is 'share that was right, 0..1';
comment on column calibration.accuracy_low is 'lower bound of its Wilson 95 % interval';
comment on column calibration.accuracy_high is 'upper bound of its Wilson 95 % interval';

-- Why the rule asked nobody else.
create or replace view stop_reasons as
select
    decisions.run_id,
    action,
    reason,
    count(*) as n_units,
    avg(n_attempts) as mean_attempts,
    avg(q) as mean_q
from decisions
where action <> 'ask'
group by decisions.run_id, action, reason;
comment on view stop_reasons is
    'Why the rule asked nobody else about a question or a step: what it had was enough, nobody was left, a bound held';
comment on column stop_reasons.run_id is 'see runs';
comment on column stop_reasons.action is 'accept, decompose';
comment on column stop_reasons.reason is 'see decisions';
comment on column stop_reasons.n_units is 'questions and steps that ended so';
comment on column stop_reasons.mean_attempts is 'entries asked before';
comment on column stop_reasons.mean_q is 'mean believed probability of the accepted result';
