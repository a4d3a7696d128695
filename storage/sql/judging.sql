-- How far the user's own check (--check) can be trusted: what it could not judge, and how often it says what the gold
-- answers say.

create or replace view check_agreement as
with judged as (
    select
        run_id,
        check_error,
        is_correct,
        is_correct_by_gold,
        check_score is not null and is_correct_by_gold is not null as is_compared
    from trajectories
    where check_score is not null or check_error is not null
),
counted as (
    select
        run_id,
        count(*) as n_checked,
        count(*) filter (check_error is not null) as n_errors,
        min(check_error) as example_error,
        count(*) filter (is_compared) as n_compared,
        count(*) filter (is_compared and is_correct = is_correct_by_gold) as n_agree,
        count(*) filter (is_compared and is_correct and not is_correct_by_gold) as n_right_only_by_check,
        count(*) filter (is_compared and is_correct_by_gold and not is_correct) as n_right_only_by_gold
    from judged
    group by run_id
)
select
    *,
    n_agree / nullif(n_compared, 0) as agreement,
    wilson_bound(n_agree, n_compared, -1.959964) as agreement_low,
    wilson_bound(n_agree, n_compared, 1.959964) as agreement_high
from counted;
comment on view check_agreement is
    'What your own check came to in each run that has one: where it gave no verdict, and where it and the benchmark''s '
    'check against the gold answer say the same';
comment on column check_agreement.run_id is 'see runs';
comment on column check_agreement.n_checked is 'trajectories that it was asked about';
comment on column check_agreement.n_errors is 'of them, those where it, or a verifier at run time, gave no verdict';
comment on column check_agreement.example_error is 'one of the reasons';
comment on column check_agreement.n_compared is 'trajectories with its verdict and a gold answer';
comment on column check_agreement.n_agree is 'of them, those where both say right, or both wrong';
comment on column check_agreement.n_right_only_by_check is 'of them, right by your check and wrong by the gold answer';
comment on column check_agreement.n_right_only_by_gold is 'of them, right by the gold answer and wrong by your check';
comment on column check_agreement.agreement is '0..1, n_agree / n_compared; null where nothing was compared';
comment on column check_agreement.agreement_low is 'lower bound of its Wilson 95 % interval';
comment on column check_agreement.agreement_high is 'upper bound of its Wilson 95 % interval';
