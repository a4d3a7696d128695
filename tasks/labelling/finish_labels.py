"""The last step of a labelling session: what every session ends with, then the two supervised sets and their card.
Needs no Prefect."""

from pathlib import Path

from r2.methods.router import make_router
from r2.pool.file.config import load_pool
from r2.problems.leakage import leakage
from r2.problems.source import parse_source
from r2.settings import LabelSettings
from storage.lake.lake import Lake
from storage.runs.label_sets import LabelSets, LabelSummary, own_leakage, summarize_labels, write_card, write_label_sets
from storage.runs.plan import read_plan
from storage.sources.problem_files import licence_of, problems_of
from tasks.answering.finish_run import close_session
from tasks.answering.progress import Progress


def finish_labels(run_dir: Path, progress: Progress, settings: LabelSettings) -> tuple[LabelSummary, LabelSets]:
    """Closes the session; returns what the run came to so far and the sets it wrote."""
    close_session(run_dir, progress)
    plan = read_plan(run_dir)
    root = run_dir.parent.parent
    pool = load_pool(settings.pool)
    router = make_router(pool, plan.settings)
    split = {"split_seed": settings.split_seed, "test_share": settings.test_share}
    sets = write_label_sets(
        plan,
        Lake(root),
        router.roster,
        Path(settings.out),
        split_seed=settings.split_seed,
        test_share=settings.test_share,
    )
    summary = summarize_labels(root, plan.run_id)
    leaks = {
        "its own test split": own_leakage(plan, sets, split_seed=settings.split_seed, test_share=settings.test_share)
    }
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    for text in settings.evaluation:
        others = problems_of(parse_source(text), None, settings.seed, data_dir)
        leaks[text] = leakage(sets.train_questions, (problem.question for problem in others))
    chosen = settings.labelling
    facts = {
        "pool": Path(settings.pool).name,
        "teacher": (
            f"{chosen.teacher or router.roster.strongest}, {chosen.n_candidates} candidates at temperature "
            f"{chosen.temperature}"
        ),
        "M_eval": chosen.m_eval or router.roster.middle,
        "judge of coherence": chosen.judge,
        **({"switched off of the paper": "; ".join(chosen.switched_off())} if chosen.switched_off() else {}),
        "weights (conciseness, practicality, coherence)": str(chosen.weights),
        "split": f"seed {split['split_seed']}, test share {split['test_share']}",
        "seed": str(settings.seed),
        **({"answers judged by": settings.check} if settings.check is not None else {}),
    }
    prices = {name: card.price.version for name, card in router.roster.by_name.items()}
    write_card(sets, summary, settings.problems, licence_of(settings.problems), facts, prices, leaks)
    return summary, sets
