-- What people said of stored answers, and how right a run is by checks and people together.

-- Of several verdicts of one person on one answer the newest counts.
create or replace view feedback_verdicts as
with newest as (
    select
        run_id,
        problem_id,
        rollout,
        given_by,
        arg_max(is_right, given_at) as is_right,
        max(given_at) as given_at
    from feedback
    group by run_id, problem_id, rollout, given_by
)
select
    run_id,
    problem_id,
    rollout,
    count(*) filter (is_right) as n_right,
    count(*) filter (not is_right) as n_wrong,
    case
        when count(*) filter (is_right) > count(*) filter (not is_right) then true
        when count(*) filter (is_right) < count(*) filter (not is_right) then false
    end as is_right,
    count(distinct is_right) > 1 as is_contested,
    string_agg(given_by, ', ' order by given_by) filter (is_right) as say_right,
    string_agg(given_by, ', ' order by given_by) filter (not is_right) as say_wrong,
    max(given_at) as given_at
from newest
group by run_id, problem_id, rollout;
comment on view feedback_verdicts is
    'What people say of each answer that has feedback: of one person the newest verdict, of several most of them';
comment on column feedback_verdicts.run_id is 'see runs';
comment on column feedback_verdicts.problem_id is 'see trajectories';
comment on column feedback_verdicts.rollout is 'see trajectories';
comment on column feedback_verdicts.n_right is 'persons who say right';
comment on column feedback_verdicts.n_wrong is 'persons who say wrong';
comment on column feedback_verdicts.is_right is 'what most of them say; null where as many say right as wrong';
comment on column feedback_verdicts.is_contested is 'some say right and some wrong';
comment on column feedback_verdicts.say_right is 'who says right; one without a name is empty';
comment on column feedback_verdicts.say_wrong is 'who says wrong; one without a name is empty';
comment on column feedback_verdicts.given_at is 'when the newest of them was brought in';

create or replace view judged_accuracy as
with judged as (
    select
        trajectories.run_id as run_id,
        is_correct,
        feedback_verdicts.problem_id is not null as has_feedback,
        feedback_verdicts.is_right as is_right,
        coalesce(is_contested, false) as is_contested,
        coalesce(feedback_verdicts.is_right, is_correct) as verdict
    from trajectories left join feedback_verdicts using (run_id, problem_id, rollout)
    where phase is null and trajectories.method <> 'label'
),
counted as (
    select
        run_id,
        count(*) as n_settled,
        count(is_correct) as n_checked,
        count(*) filter (has_feedback) as n_feedback,
        count(*) filter (is_contested) as n_contested,
        count(*) filter (is_right <> is_correct) as n_overruled,
        count(verdict) as n_judged,
        count(*) filter (verdict) as n_right
    from judged
    group by run_id
)
select
    *,
    n_judged / n_settled as judged_share,
    n_right / nullif(n_judged, 0) as accuracy,
    wilson_bound(n_right, n_judged, -1.959964) as accuracy_low,
    wilson_bound(n_right, n_judged, 1.959964) as accuracy_high
from counted;
comment on view judged_accuracy is
    'How right each run is by checks and feedback together: people count before a check, a tie between them leaves it '
    'to the check';
comment on column judged_accuracy.run_id is 'see runs';
comment on column judged_accuracy.n_settled is 'questions answered or failed';
comment on column judged_accuracy.n_checked is 'of them, judged by a check';
comment on column judged_accuracy.n_feedback is 'of them, with feedback';
comment on column judged_accuracy.n_contested is 'of them, right by some persons and wrong by others';
comment on column judged_accuracy.n_overruled is 'of them, where people say the opposite of the check';
comment on column judged_accuracy.n_judged is 'of them, with a verdict of either kind';
comment on column judged_accuracy.n_right is 'of them, right';
comment on column judged_accuracy.judged_share is '0..1, n_judged / n_settled';
comment on column judged_accuracy.accuracy is '0..1, n_right / n_judged; null where nothing was judged';
comment on column judged_accuracy.accuracy_low is 'lower bound of its Wilson 95 % interval';
comment on column judged_accuracy.accuracy_high is 'upper bound of its Wilson 95 % interval';
