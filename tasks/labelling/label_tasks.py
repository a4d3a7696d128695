"""The last step of a labelling session as a Prefect task. The step itself needs no Prefect."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.labelling import finish_labels as finish

finish_labels = task(name="finish-labels", cache_policy=NO_CACHE, persist_result=False)(finish.finish_labels)
