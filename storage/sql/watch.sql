-- Whether the traffic of the newest day is as that of the 30 days before it. Traffic is what `r2 answer` was asked;
-- questions of the nightly loop are none.

create or replace view drift as
with traffic as (
    select
        t.run_id, t.problem_id, t.rollout, day_of(t.started_at) as asked_on, t.status,
        t.cost_usd + coalesce(t.saved_usd, 0) as usd, coalesce(f.is_right, t.is_correct) as verdict
    from trajectories as t join runs_latest as r using (run_id)
    left join feedback_verdicts as f using (run_id, problem_id, rollout)
    where r.kind = 'answer' and t.phase is null and t.error_type is distinct from 'forgotten'
        and not contains(r.input_path, '_refresh/')
),
newest as (select max(asked_on) as asked_on from traffic),
asked as (
    select traffic.*, if(traffic.asked_on = newest.asked_on, 'recent', 'before') as period
    from traffic, newest
    where traffic.asked_on >= newest.asked_on - 30
),
sent as (
    select
        period, request_model, error_type, purpose,
        try_cast(rates_at(price_version, 0)[1] as double) as price_input,
        try_cast(rates_at(price_version, 0)[3] as double) as price_output
    from calls join asked using (run_id, problem_id, rollout)
    where reused_from is null
),
errors_of as (select distinct request_model, error_type from sent where error_type is not null),
shares as (
    select period, 'accuracy' as what, '' as name, '' as detail, count(verdict) as n, count(*) filter (verdict) as k
    from asked group by period
    union all
    select period, 'judged', '', '', count(*), count(verdict) from asked group by period
    union all
    select period, 'failed', '', '', count(*), count(*) filter (status = 'failed') from asked group by period
    union all
    select
        period, 'model_share', entry.request_model, '', count(*),
        count(*) filter (s.request_model = entry.request_model)
    from sent as s, (select distinct request_model from sent) as entry
    where s.error_type is null and s.purpose in ('solve', 'final')
    group by period, entry.request_model
    union all
    select period, 'errors', e.request_model, e.error_type, count(*), count(*) filter (s.error_type = e.error_type)
    from sent as s join errors_of as e using (request_model)
    group by period, e.request_model, e.error_type
),
means as (
    select period, 'usd_per_question' as what, '' as name, '' as detail, count(*) as n, avg(usd) as value,
        avg(usd) - 1.959964 * coalesce(stddev_samp(usd), 0) / sqrt(count(*)) as low,
        avg(usd) + 1.959964 * coalesce(stddev_samp(usd), 0) / sqrt(count(*)) as high
    from asked group by period
    union all
    select period, 'price_input', request_model, '', count(*), avg(price_input), min(price_input), max(price_input)
    from sent where price_input is not null group by period, request_model
    union all
    select period, 'price_output', request_model, '', count(*), avg(price_output), min(price_output), max(price_output)
    from sent where price_output is not null group by period, request_model
),
measured as (
    select
        period, what, name, detail, n, k / nullif(n, 0) as value, wilson_bound(k, n, -1.959964) as low,
        wilson_bound(k, n, 1.959964) as high
    from shares
    union all
    select period, what, name, detail, n, value, low, high from means
),
compared as (
    select
        what, name, detail,
        max(value) filter (period = 'recent') as recent,
        max(low) filter (period = 'recent') as recent_low,
        max(high) filter (period = 'recent') as recent_high,
        coalesce(max(n) filter (period = 'recent'), 0) as n_recent,
        max(value) filter (period = 'before') as before,
        max(low) filter (period = 'before') as before_low,
        max(high) filter (period = 'before') as before_high,
        coalesce(max(n) filter (period = 'before'), 0) as n_before
    from measured
    group by what, name, detail
)
select
    *,
    recent - before as change,
    coalesce(recent_low > before_high or recent_high < before_low, false) as has_moved
from compared;
comment on view drift is
    'The newest day of traffic against the 30 days before it: accuracy, cost of a question, who is asked, errors, '
    'prices';
comment on column drift.what is
    'accuracy, judged and failed: shares of the questions; usd_per_question; model_share: of answering calls; errors: '
    'share of an entry''s attempts; price_input and price_output: USD per million tokens';
comment on column drift.name is 'pool entry, for what is of one; else empty';
comment on column drift.detail is 'of errors, the type; else empty';
comment on column drift.recent is
    'of the newest UTC day with traffic; accuracy counts questions with a check or feedback';
comment on column drift.recent_low is
    'lower bound: of shares the Wilson 95 % interval, of cost the normal one, of prices the lowest';
comment on column drift.recent_high is 'upper bound';
comment on column drift.n_recent is 'questions, or attempts, that it is of';
comment on column drift.before is 'of the 30 days before; null where they had none';
comment on column drift.before_low is 'lower bound';
comment on column drift.before_high is 'upper bound';
comment on column drift.n_before is 'questions, or attempts, that it is of';
comment on column drift.change is 'recent - before';
comment on column drift.has_moved is 'the two intervals do not touch: no chance';
