"""The first step of an evaluation as a Prefect task. The step itself needs no Prefect: `finished.py`, beside this file,
tells a finished evaluation without it."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.evaluation import plan_evaluation as plan

plan_evaluation = task(name="plan-evaluation", cache_policy=NO_CACHE, persist_result=False)(plan.plan_evaluation)
