-- What the answers cost, and what else they could have cost. Loaded by storage/sql/query.py over the views runs,
-- trajectories, subtasks, calls and runs_latest.

-- A bound of the Wilson score interval of `n_right` out of `n`: z = -1.959964 for the lower and 1.959964 for the
-- upper one of the 95 % interval. Null for n = 0.
create or replace macro wilson_bound(n_right, n, z) as case when n > 0 then
    (n_right / n + z ** 2 / (2 * n) + z * sqrt(n_right / n * (1 - n_right / n) / n + z ** 2 / (4 * n ** 2)))
    / (1 + z ** 2 / n)
end;

-- The hour and the day of a time, UTC. Whole-number arithmetic: a third of date_trunc's CPU.
create or replace macro hour_of(moment) as make_timestamp(epoch_us(moment) // 3600000000 * 3600000000);
create or replace macro day_of(moment) as date '1970-01-01' + (epoch_us(moment) // 86400000000)::int;

-- USD per million tokens at a price version for a prompt of so many tokens: [input, cached input, output], and the
-- price of a cache write as 'w...' where there is one. Longer prompts may have other rates, behind a '>'.
create or replace macro rates_at(version, n_input) as string_split(split_part(coalesce(
    list_filter(
        string_split(version, '>')[2:], lambda part: try_cast(split_part(part, ':', 1) as bigint) < n_input
    )[-1],
    string_split(version, '>')[1]
), ':', 2), '/');

-- What the provider's cache saved: reads at less than fresh tokens, less what writes cost more.
create or replace macro saved_at(rates, n_cached, n_written) as (
    n_cached * (try_cast(rates[1] as double) - try_cast(rates[2] as double))
    - n_written * (coalesce(try_cast(substr(rates[4], 2) as double) - try_cast(rates[1] as double), 0))
) / 1e6;
create or replace macro cache_saved(version, n_input, n_cached, n_written) as case
    when coalesce(n_cached, 0) > 0 or coalesce(n_written, 0) > 0
    then coalesce(saved_at(rates_at(version, n_input), coalesce(n_cached, 0), coalesce(n_written, 0)), 0)
    else 0
end;

-- What went by batch, and what it saved.
create or replace view batch_jobs as
select
    run_id,
    request_model,
    count(*) as n_jobs,
    sum(n_rows)::bigint as n_rows,
    sum(n_answered)::bigint as n_answered,
    sum(n_again)::bigint as n_again,
    sum(n_live)::bigint as n_live,
    count(*) filter (is_rescued) as n_rescued_jobs,
    coalesce(sum(n_live) filter (is_rescued), 0)::bigint as n_rescued,
    sum(cost_usd) as cost_usd,
    sum(live_usd) as live_usd,
    sum(live_usd) - sum(cost_usd) as saved_usd,
    median(epoch_ms(ended_at - submitted_at) / 3.6e6) filter (state = 'ended') as median_hours,
    max(epoch_ms(ended_at - submitted_at) / 3.6e6) as longest_hours
from jobs
group by run_id, request_model;
comment on view batch_jobs is
    'Jobs at the providers'' batch endpoints, per run and model: calls, hours, USD, and what live would have cost';
comment on column batch_jobs.run_id is 'see runs';
comment on column batch_jobs.request_model is 'pool entry that was sent to';
comment on column batch_jobs.n_jobs is 'jobs';
comment on column batch_jobs.n_rows is 'calls in them';
comment on column batch_jobs.n_answered is 'calls that they answered';
comment on column batch_jobs.n_again is 'calls that did not run or broke, asked again in another job';
comment on column batch_jobs.n_live is 'calls of them that were asked live';
comment on column batch_jobs.n_rescued_jobs is 'jobs that were given up for the deadline';
comment on column batch_jobs.n_rescued is 'calls asked live because the deadline was near';
comment on column batch_jobs.cost_usd is 'at batch price, USD';
comment on column batch_jobs.live_usd is 'what the same answers would have cost live, USD';
comment on column batch_jobs.saved_usd is 'live_usd less cost_usd';
comment on column batch_jobs.median_hours is 'from sending to the end, of jobs that ended by themselves';
comment on column batch_jobs.longest_hours is 'the same of the longest job, however it ended';

-- The bill by model.
create or replace view cost_by_model as
select
    run_id,
    request_model,
    count(*) as n_attempts,
    count(*) filter (error_type is not null) as n_failed_attempts,
    sum(input_tokens)::bigint as input_tokens,
    sum(cached_input_tokens)::bigint as cached_input_tokens,
    sum(output_tokens)::bigint as output_tokens,
    sum(cost_usd) as cost_usd,
    sum(cost_usd) / nullif(sum(sum(cost_usd)) over (partition by run_id), 0) as cost_share,
    coalesce(sum(cost_usd) filter (purpose in ('decompose', 'allocate')), 0) as router_cost_usd,
    coalesce(sum(cache_write_tokens), 0)::bigint as cache_write_tokens,
    coalesce(sum(reasoning_tokens), 0)::bigint as reasoning_tokens,
    coalesce(
        sum(cache_saved(price_version, input_tokens, cached_input_tokens, cache_write_tokens))
            filter (reused_from is null),
        0
    ) as cache_saved_usd,
    count(*) filter (reused_from is not null) as n_reused,
    coalesce(sum(saved_usd), 0) as saved_usd
from calls
group by run_id, request_model;
comment on view cost_by_model is
    'What each model of the pool was paid, per run: every attempt, the router''s own calls included';
comment on column cost_by_model.run_id is 'see runs';
comment on column cost_by_model.request_model is 'pool entry that was sent to';
comment on column cost_by_model.n_attempts is 'HTTP exchanges, failed ones included';
comment on column cost_by_model.n_failed_attempts is 'of them, those that gave no completion';
comment on column cost_by_model.input_tokens is 'prompt tokens';
comment on column cost_by_model.cached_input_tokens is 'of them, read from the provider''s cache';
comment on column cost_by_model.output_tokens is 'generated tokens';
comment on column cost_by_model.cost_usd is 'USD, at the prices of the day of the call';
comment on column cost_by_model.cost_share is '0..1 of the run''s cost';
comment on column cost_by_model.router_cost_usd is 'USD of it for decomposing and allocating';
comment on column cost_by_model.cache_write_tokens is 'prompt tokens written to the provider''s cache';
comment on column cost_by_model.reasoning_tokens is 'generated tokens spent on thinking';
comment on column cost_by_model.cache_saved_usd is
    'USD that the provider''s cache saved: reads are cheaper than fresh tokens, writes may be dearer';
comment on column cost_by_model.n_reused is 'attempts that another run had paid for';
comment on column cost_by_model.saved_usd is 'USD that these would have cost; no part of cost_usd';

-- Runs against each other: what a thousand answers cost and how many were right.
create or replace view cost_accuracy as
with totals as (
    select
        run_id,
        method,
        count(*) as n_problems,
        count(*) filter (status = 'answered') as n_answered,
        count(is_correct) as n_judged,
        count(*) filter (is_correct) as n_correct,
        sum(cost_usd) as cost_usd,
        1000 * sum(cost_usd + coalesce(saved_usd, 0)) / count(*) as usd_per_1k,
        sum(n_calls) / count(*) as calls_per_problem,
        avg(latency_s) as mean_latency_s
    from trajectories
    group by run_id, method
),
rated as (
    select totals.*, n_correct / nullif(n_judged, 0) as accuracy, input_path
    from totals left join runs_latest using (run_id)
)
select
    run_id,
    rated.method,
    n_problems,
    n_answered,
    n_judged,
    n_correct,
    accuracy,
    wilson_bound(n_correct, n_judged, -1.959964) as accuracy_low,
    wilson_bound(n_correct, n_judged, 1.959964) as accuracy_high,
    cost_usd,
    usd_per_1k,
    calls_per_problem,
    mean_latency_s,
    case when accuracy is not null then not exists (
        select 1 from rated as other
        where other.input_path is not distinct from rated.input_path
            and other.usd_per_1k <= rated.usd_per_1k and other.accuracy >= rated.accuracy
            and (other.usd_per_1k < rated.usd_per_1k or other.accuracy > rated.accuracy)
    ) end as on_frontier
from rated;
comment on view cost_accuracy is
    'Accuracy and cost of every run and method, and whether any other run over the same input is at least as right '
    'for no more';
comment on column cost_accuracy.run_id is 'see runs';
comment on column cost_accuracy.method is 'way to answer: r2, cot, tot, ...';
comment on column cost_accuracy.n_problems is 'settled problems, answered or failed';
comment on column cost_accuracy.n_answered is 'of them, answered';
comment on column cost_accuracy.n_judged is
    'of them, those that a check judged, by the gold answer or your own; without an answer they count as wrong';
comment on column cost_accuracy.n_correct is 'of the judged, right ones';
comment on column cost_accuracy.accuracy is '0..1, n_correct / n_judged; null where nothing was judged';
comment on column cost_accuracy.accuracy_low is 'lower bound of its Wilson 95 % interval';
comment on column cost_accuracy.accuracy_high is 'upper bound of its Wilson 95 % interval';
comment on column cost_accuracy.cost_usd is 'USD paid for the settled problems, the router''s own calls included';
comment on column cost_accuracy.usd_per_1k is
    'USD per thousand settled problems, what other runs had paid for included';
comment on column cost_accuracy.calls_per_problem is 'model calls, the router''s own included';
comment on column cost_accuracy.mean_latency_s is 'mean critical path of a problem, s';
comment on column cost_accuracy.on_frontier is
    'true if no other run over the same input file is at least as accurate for no more per thousand, and better in '
    'one of the two';

-- Spend over time.
create or replace view spend_by_day as
select
    day_of(started_at) as day,
    run_id,
    request_model,
    count(*) as n_attempts,
    sum(input_tokens)::bigint as input_tokens,
    sum(output_tokens)::bigint as output_tokens,
    sum(cost_usd) as cost_usd
from calls
group by all;
comment on view spend_by_day is 'Spend per UTC day, run and model; sum it over what you do not need';
comment on column spend_by_day.day is 'UTC day on which the attempts were sent';
comment on column spend_by_day.run_id is 'see runs';
comment on column spend_by_day.request_model is 'pool entry that was sent to';
comment on column spend_by_day.n_attempts is 'HTTP exchanges, failed ones included';
comment on column spend_by_day.input_tokens is 'prompt tokens';
comment on column spend_by_day.output_tokens is 'generated tokens';
comment on column spend_by_day.cost_usd is 'USD';

-- The same tokens at one model's price. What it cannot know: how many tokens that model would have needed, and how
-- often it would have been right.
create or replace view single_model_cost as
with traffic as (
    select
        run_id,
        request_model,
        purpose in ('decompose', 'allocate') as is_router,
        max(price_version) as price_version,
        sum(input_tokens - least(cached_input_tokens, input_tokens)) as fresh_tokens,
        sum(least(cached_input_tokens, input_tokens)) as cached_tokens,
        sum(output_tokens) as output_tokens,
        sum(cost_usd + coalesce(saved_usd, 0)) as cost_usd
    from calls
    group by all
),
prices as (
    select
        run_id,
        request_model,
        max(price_version) as price_version,
        string_split(regexp_extract(max(price_version), ':([^>]*)', 1), '/') as usd_per_mtok
    from traffic
    where price_version <> ''
    group by run_id, request_model
),
priced as (
    select
        prices.run_id,
        prices.request_model,
        prices.price_version,
        is_router,
        cost_usd,
        (fresh_tokens * usd_per_mtok[1]::double + cached_tokens * usd_per_mtok[2]::double
            + output_tokens * usd_per_mtok[3]::double)
            / 1e6 as repriced_usd
    from prices join traffic using (run_id)
)
select
    run_id,
    request_model,
    price_version,
    sum(cost_usd) as actual_usd,
    sum(repriced_usd) as all_calls_usd,
    coalesce(sum(repriced_usd) filter (not is_router), 0) as without_router_usd,
    sum(cost_usd) / nullif(sum(repriced_usd) filter (not is_router), 0) as actual_share
from priced
group by run_id, request_model, price_version;
comment on view single_model_cost is 'What the tokens of a run would have cost at the price of each single model of it';
comment on column single_model_cost.run_id is 'see runs';
comment on column single_model_cost.request_model is 'the model whose price is applied to all tokens';
comment on column single_model_cost.price_version is 'that price: date and USD per million tokens, input/cached/output';
comment on column single_model_cost.actual_usd is 'USD that the run really cost, the router''s own calls included';
comment on column single_model_cost.all_calls_usd is 'USD for the tokens of all calls at this price';
comment on column single_model_cost.without_router_usd is
    'the same without decomposing and allocating, which one model alone would not do';
comment on column single_model_cost.actual_share is 'actual_usd / without_router_usd: below 1 the router was cheaper';

-- What routing itself costs.
create or replace view router_overhead as
with split as (
    select
        run_id, purpose in ('decompose', 'allocate') as is_router,
        cost_usd + coalesce(saved_usd, 0) as cost_usd, input_tokens + output_tokens as tokens, latency_s
    from calls
)
select
    run_id,
    count(*) as n_attempts,
    count(*) filter (is_router) as n_router_attempts,
    sum(cost_usd) as cost_usd,
    coalesce(sum(cost_usd) filter (is_router), 0) as router_cost_usd,
    coalesce(sum(cost_usd) filter (is_router), 0) / nullif(sum(cost_usd), 0) as router_cost_share,
    coalesce(sum(tokens) filter (is_router), 0) / nullif(sum(tokens), 0) as router_token_share,
    coalesce(sum(latency_s) filter (is_router), 0) / nullif(sum(latency_s), 0) as router_latency_share
from split
group by run_id;
comment on view router_overhead is 'The share of decomposing and allocating in what a run cost';
comment on column router_overhead.run_id is 'see runs';
comment on column router_overhead.n_attempts is 'HTTP exchanges, failed ones included';
comment on column router_overhead.n_router_attempts is 'of them, the decomposer''s and the allocator''s';
comment on column router_overhead.cost_usd is 'USD of all attempts, what other runs had paid for included';
comment on column router_overhead.router_cost_usd is 'USD of the decomposer''s and the allocator''s';
comment on column router_overhead.router_cost_share is '0..1 of the run''s cost';
comment on column router_overhead.router_token_share is '0..1 of the run''s tokens';
comment on column router_overhead.router_latency_share is
    '0..1 of the seconds spent on the wire, summed over calls that may run at the same time';

-- For whom it was spent. A call belongs to the session that it was sent in.
create or replace view spend_by_tag as
with sent as (
    select calls.run_id as run_id, day_of(calls.started_at) as day, calls.cost_usd as cost_usd, tags
    from calls asof join runs on calls.run_id = runs.run_id and calls.started_at >= runs.started_at
    where tags is not null
),
tagged as (select *, unnest(json_keys(tags)) as tag from sent)
select
    day,
    tag,
    json_extract_string(tags, '$."' || tag || '"') as value,
    count(distinct run_id) as n_runs,
    count(*) as n_attempts,
    sum(cost_usd) as cost_usd
from tagged
group by all;
comment on view spend_by_tag is
    'What was spent for whom on each UTC day, by the tags of the runs (r2 answer --tag); of several tags each has the '
    'whole';
comment on column spend_by_tag.day is 'UTC day on which the calls were sent';
comment on column spend_by_tag.tag is 'name of the tag, as team';
comment on column spend_by_tag.value is 'its value, as search';
comment on column spend_by_tag.n_runs is 'runs that spent for it';
comment on column spend_by_tag.n_attempts is 'attempts of settled questions'' calls, failed ones included';
comment on column spend_by_tag.cost_usd is
    'USD at the prices of the day of the call; calls of questions that are not settled yet are missing';
