-- How the calls went: how fast, what failed, and the same calls under their OpenTelemetry names.

-- Speed of each model.
create or replace view latency_percentiles as
with grouped as (
    select
        run_id,
        request_model,
        count(*) as n_attempts,
        quantile_cont(latency_s, [0.5, 0.95, 0.99]) as latency,
        quantile_cont(queue_s, [0.5, 0.95]) as queue,
        sum(output_tokens) / nullif(sum(latency_s), 0) as output_tokens_per_s
    from calls
    where error_type is null
    group by run_id, request_model
)
select
    run_id,
    request_model,
    n_attempts,
    latency[1] as p50_latency_s,
    latency[2] as p95_latency_s,
    latency[3] as p99_latency_s,
    queue[1] as p50_queue_s,
    queue[2] as p95_queue_s,
    output_tokens_per_s
from grouped;
comment on view latency_percentiles is 'How long successful attempts took, per run and model';
comment on column latency_percentiles.run_id is 'see runs';
comment on column latency_percentiles.request_model is 'pool entry that was sent to';
comment on column latency_percentiles.n_attempts is 'successful attempts';
comment on column latency_percentiles.p50_latency_s is 'median time from sending to the last byte, s';
comment on column latency_percentiles.p95_latency_s is 'its 95th percentile, s';
comment on column latency_percentiles.p99_latency_s is 'its 99th percentile, s';
comment on column latency_percentiles.p50_queue_s is 'median wait for limits before sending, s';
comment on column latency_percentiles.p95_queue_s is 'its 95th percentile, s';
comment on column latency_percentiles.output_tokens_per_s is
    'generated tokens per second on the wire, over all attempts';

-- What went wrong. Attempts fail without the problem failing, and a problem can fail without a failed attempt: both
-- are here.
create or replace view errors as
select
    run_id,
    'attempt' as level,
    error_type,
    request_model,
    benchmark,
    count(*) as n,
    min(error_message) as example_message
from calls
where error_type is not null
group by run_id, error_type, request_model, benchmark
union all
select
    run_id, 'attempt', 'no_usage', request_model, benchmark, count(*),
    'answered without token counts; the worst case was charged'
from calls
where error_type is null and usage_source = 'estimated'
group by run_id, request_model, benchmark
union all
select run_id, 'attempt', 'doubtful_usage', request_model, benchmark, count(*),
    'billed what cannot be true of what was asked: ' || max(output_tokens) || ' generated tokens for a limit of '
    || arg_max(max_output_tokens, output_tokens)
from calls
where usage_source = 'doubtful'
group by run_id, request_model, benchmark
union all
select run_id, 'problem', error_type, null, benchmark, count(*), min(error_message)
from trajectories
where status = 'failed'
group by run_id, error_type, benchmark;
comment on view errors is
    'Every failed attempt and every failed problem, counted by type; answers without token counts are here as '
    'no_usage, bills that cannot be true as doubtful_usage';
comment on column errors.run_id is 'see runs';
comment on column errors.level is 'attempt: an HTTP exchange; problem: a question that got no answer';
comment on column errors.error_type is 'what went wrong';
comment on column errors.request_model is 'pool entry that was sent to; null for problems';
comment on column errors.benchmark is 'benchmark of the problem, '''' for none';
comment on column errors.n is 'how often';
comment on column errors.example_message is 'one of the messages';

-- Questions without an answer, as the user knows them.
create or replace view bad_rows as
select run_id, input_index + 1 as row_number, problem_id, error_type, error_message, n_calls, cost_usd, input
from trajectories
where status = 'failed'
order by run_id, row_number;
comment on view bad_rows is 'Input rows that were settled without an answer, and why';
comment on column bad_rows.run_id is 'see runs';
comment on column bad_rows.row_number is '1-based row of the input, headers not counted';
comment on column bad_rows.problem_id is 'the user''s id, or line-<n> where the row had none';
comment on column bad_rows.error_type is 'why there is no answer';
comment on column bad_rows.error_message is 'the same in words, with the input line for a row that could not be read';
comment on column bad_rows.n_calls is 'calls made before it failed; 0 for a row that could not be read';
comment on column bad_rows.cost_usd is 'USD they cost';
comment on column bad_rows.input is 'the question';

-- The attempts under the dotted names of the OpenTelemetry conventions for generative AI, for export to a tracing
-- system.
create or replace view otel_spans as
select
    md5(concat_ws(chr(0), run_id, problem_id, rollout)) as trace_id,
    left(md5(concat_ws(chr(0), run_id, problem_id, rollout, call_index, attempt)), 16) as span_id,
    'chat ' || request_model as name,
    started_at as start_time,
    started_at + to_microseconds((latency_s * 1e6)::bigint) as end_time,
    'chat' as "gen_ai.operation.name",
    request_model as "gen_ai.request.model",
    temperature as "gen_ai.request.temperature",
    max_output_tokens as "gen_ai.request.max_tokens",
    response_model as "gen_ai.response.model",
    response_id as "gen_ai.response.id",
    [finish_reason] as "gen_ai.response.finish_reasons",
    input_tokens as "gen_ai.usage.input_tokens",
    cached_input_tokens as "gen_ai.usage.cache_read.input_tokens",
    cache_write_tokens as "gen_ai.usage.cache_creation.input_tokens",
    output_tokens as "gen_ai.usage.output_tokens",
    latency_s as "gen_ai.client.operation.duration",
    input_messages as "gen_ai.input.messages",
    error_type as "error.type",
    status as "http.response.status_code",
    run_id as "r2.run_id",
    problem_id as "r2.problem_id",
    purpose as "r2.purpose",
    subtask_index as "r2.subtask_index",
    cost_usd as "r2.cost_usd"
from calls;
comment on view otel_spans is
    'Every attempt as a span, named by the OpenTelemetry conventions for generative AI; what they have no name for '
    'starts with r2.';
comment on column otel_spans.trace_id is '128 bits in hex, one trace per problem and rollout';
comment on column otel_spans.span_id is '64 bits in hex, one span per attempt';
comment on column otel_spans.name is 'operation and model';
comment on column otel_spans.start_time is 'when it was sent';
comment on column otel_spans.end_time is 'when the last byte came';
comment on column otel_spans."gen_ai.operation.name" is 'always chat';
comment on column otel_spans."gen_ai.request.model" is 'pool entry that was sent to';
comment on column otel_spans."gen_ai.request.temperature" is 'sampling temperature';
comment on column otel_spans."gen_ai.request.max_tokens" is 'limit asked for';
comment on column otel_spans."gen_ai.response.model" is 'model id the server says it used';
comment on column otel_spans."gen_ai.response.id" is 'the server''s id of its answer';
comment on column otel_spans."gen_ai.response.finish_reasons" is 'stop, length, ...; a list of one';
comment on column otel_spans."gen_ai.usage.input_tokens" is 'prompt tokens';
comment on column otel_spans."gen_ai.usage.cache_read.input_tokens" is 'of them, read from the provider''s cache';
comment on column otel_spans."gen_ai.usage.cache_creation.input_tokens" is 'of them, written to the provider''s cache';
comment on column otel_spans."gen_ai.usage.output_tokens" is 'generated tokens';
comment on column otel_spans."gen_ai.client.operation.duration" is 's, sent to last byte';
comment on column otel_spans."gen_ai.input.messages" is 'JSON list of [role, text]';
comment on column otel_spans."error.type" is 'why there is no completion';
comment on column otel_spans."http.response.status_code" is 'HTTP status, 0 if there was none';
comment on column otel_spans."r2.run_id" is 'see runs';
comment on column otel_spans."r2.problem_id" is 'see trajectories';
comment on column otel_spans."r2.purpose" is 'decompose, allocate, solve, final, judge';
comment on column otel_spans."r2.subtask_index" is '0-based place in the plan; null for decompose, allocate and final';
comment on column otel_spans."r2.cost_usd" is 'USD, at the price of the day';
