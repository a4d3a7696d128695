-- How training went: curves, what each term of the reward brought, and every round's results on held-out problems.

-- Every metric of every step, SFT and GRPO alike.
create or replace view training_curve as
select
    run_id, phase, policy, round, step, metric, value,
    avg(value) over (
        partition by run_id, phase, policy, round, metric order by step rows between 9 preceding and current row
    ) as mean_of_10
from curves
where phase <> 'held_out';
comment on view training_curve is 'Metrics of training by step, with their running mean over ten steps';
comment on column training_curve.run_id is 'see runs';
comment on column training_curve.phase is 'sft or grpo';
comment on column training_curve.policy is 'decomposer, allocator, or a specialist''s name';
comment on column training_curve.round is '0-based round; 0 for sft';
comment on column training_curve.step is '0-based optimiser step within the round';
comment on column training_curve.metric is 'loss, reward, rewards/right/mean, entropy, model_share/NAME, ...';
comment on column training_curve.value is 'its value at the step';
comment on column training_curve.mean_of_10 is 'its mean over this step and up to nine before';

-- The terms of the reward by step: what was earned, and what it weighed.
create or replace view reward_terms as
select
    t.run_id, t.policy, t.round, t.step, r.term,
    count(*) as n_rollouts,
    count(*) filter (r.value is null) as n_without,
    avg(r.value) as mean_value,
    stddev_pop(r.value) as spread,
    avg(r.weight * r.value) as mean_in_reward
from rewards as r
join trajectories as t using (run_id, problem_id, rollout)
group by t.run_id, t.policy, t.round, t.step, r.term;
comment on view reward_terms is 'GRPO: each term of the reward by step';
comment on column reward_terms.run_id is 'see runs';
comment on column reward_terms.policy is 'NAME@VERSION that the round started from';
comment on column reward_terms.round is '0-based round';
comment on column reward_terms.step is '0-based optimiser step of the round';
comment on column reward_terms.term is 'right, cost, well_formed';
comment on column reward_terms.n_rollouts is 'rollouts of the step';
comment on column reward_terms.n_without is 'of them, those the pool failed for: they teach nothing';
comment on column reward_terms.mean_value is 'the term before weighting';
comment on column reward_terms.spread is 'its standard deviation over the step';
comment on column reward_terms.mean_in_reward is 'what it contributes to the mean reward';

-- Held-out problems before and after each round, side by side.
create or replace view promotions as
with held as (
    select
        run_id, round, rollout, any_value(policy) as policy, count(*) as n,
        avg(is_correct::int) as accuracy, avg(cost_usd) as cost_usd
    from trajectories
    where phase = 'held_out'
    group by run_id, round, rollout
),
utility as (
    select run_id, round, step as rollout, max(value) filter (metric = 'utility') as utility
    from curves where phase = 'held_out' group by all
)
select
    o.run_id, o.round, o.policy as before, n.policy as after, o.n as n_problems,
    o.accuracy as accuracy_before, n.accuracy as accuracy_after,
    o.cost_usd as cost_before_usd, n.cost_usd as cost_after_usd,
    uo.utility as utility_before, un.utility as utility_after
from held as o
left join held as n on n.run_id = o.run_id and n.round = o.round and n.rollout = 1
left join utility as uo on uo.run_id = o.run_id and uo.round = o.round and uo.rollout = 0
left join utility as un on un.run_id = o.run_id and un.round = o.round and un.rollout = 1
where o.rollout = 0;
comment on view promotions is
    'GRPO: held-out comparison of each round; the decision and its interval are in the registry''s history and the '
    'run''s state.json';
comment on column promotions.run_id is 'see runs';
comment on column promotions.round is '0-based round';
comment on column promotions.before is 'decomposer and allocator before the round';
comment on column promotions.after is 'the same with the round''s candidate; null where nobody learned';
comment on column promotions.n_problems is 'held-out problems';
comment on column promotions.accuracy_before is '0..1 right';
comment on column promotions.accuracy_after is '0..1 right with the candidate';
comment on column promotions.cost_before_usd is 'mean USD per problem, router included';
comment on column promotions.cost_after_usd is 'the same with the candidate';
comment on column promotions.utility_before is '1[correct] - lambda * cost / cost_ref, mean';
comment on column promotions.utility_after is 'the same with the candidate';
