"""The first and the last step of a run as Prefect tasks. The steps need no Prefect: `finished.py`, beside this
file, tells a finished run without it."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.answering import finish_run as finish
from tasks.answering import plan_file as plan

plan_file = task(name="plan-file", cache_policy=NO_CACHE, persist_result=False)(plan.plan_file)
finish_run = task(name="finish-run", cache_policy=NO_CACHE, persist_result=False)(finish.finish_run)
