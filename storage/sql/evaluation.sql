-- The runs of evaluations: one method at one operating point over the dev or the test problems. `r2 evaluate`
-- compares them.

create or replace view evaluated_runs as
select
    run_id,
    runs_latest.method as method,
    runs_latest.input_path as input_path,
    case when parse_filename(runs_latest.input_path) = 'dev.jsonl' then 'dev' else 'test' end as side,
    json_extract_string(config, '$.reasoning.model') as model,
    json_extract_string(config, '$.reasoning.threshold')::double as threshold,
    json_extract_string(config, '$.reasoning.b')::double as b,
    json_extract_string(config, '$.reasoning.seed')::bigint as seed,
    count(*) as n_problems,
    avg(coalesce(is_correct, false)::int) as accuracy,
    1000 * avg(trajectories.cost_usd) as usd_per_1k,
    sum(router_cost_usd) / nullif(sum(trajectories.cost_usd), 0) as router_share,
    avg(n_calls) as calls_per_problem,
    quantile_cont(latency_s, 0.5) as p50_latency_s,
    quantile_cont(latency_s, 0.95) as p95_latency_s
from runs_latest join trajectories using (run_id)
where kind = 'evaluate'
group by all;
comment on view evaluated_runs is
    'One method of an evaluation at one operating point, on one side of the split; calls that runs share are charged '
    'to each';
comment on column evaluated_runs.run_id is 'see runs';
comment on column evaluated_runs.method is
    'way to answer; random with one model is that model asked in its own prompt mode';
comment on column evaluated_runs.input_path is
    'question file of the side, in the folder of the evaluation that ran it first';
comment on column evaluated_runs.side is 'dev: problems that choose operating points; test: problems of the table';
comment on column evaluated_runs.model is 'the one model of cot, tot and decompose_one, where it was named';
comment on column evaluated_runs.threshold is 'setting of the run; read by datashunt, automix, dot and query_router';
comment on column evaluated_runs.b is 'setting of the run: r2''s cost knob';
comment on column evaluated_runs.seed is 'of the models'' sampling and of the method''s own draws';
comment on column evaluated_runs.n_problems is 'settled problems';
comment on column evaluated_runs.accuracy is '0..1; a failed problem is wrong';
comment on column evaluated_runs.usd_per_1k is 'USD per 1,000 problems, every call of the method included';
comment on column evaluated_runs.router_share is
    '0..1 of the cost that the decomposer''s and the allocator''s calls are';
comment on column evaluated_runs.calls_per_problem is 'model calls, the router''s own included';
comment on column evaluated_runs.p50_latency_s is 'median over problems, s';
comment on column evaluated_runs.p95_latency_s is '95th percentile over problems, s';
