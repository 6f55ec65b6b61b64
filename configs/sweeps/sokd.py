"""SoKD: its augmentation, its areas, both; the outer objective, the length of the search, other feature methods.

python launch/sweep.py --sweep=configs/sweeps/sokd.py:resnet20,resnet8 --workdir=runs/sweep_sokd \\
  --config.data.name=fashion_mnist
"""

CONFIG = "configs/sokd_fitnet.py"
SEEDS = 3
BASELINE = "fitnet"

DAFA = "student.refine.dafa"


def sweep():
    """Hosts alone and behind SoKD; FitNet behind DAFA or DAM; objectives and lengths of the search."""
    for host in ("fitnet", "at", "reviewkd"):
        yield {"name": host, "config": f"configs/compose.py:{host}"}
        yield {"name": f"SoKD + {host}", "config": f"configs/compose.py:sokd+{host}"}
    yield {"name": "DAFA + fitnet", "config": "configs/compose.py:sokd+fitnet", "student.refine_order": ("dafa",)}
    yield {"name": "DAM + fitnet", "config": "configs/compose.py:sokd+fitnet", "student.refine_order": ("dam",)}
    for outer in ("plain", "consistency"):
        yield {"name": f"SoKD + fitnet, outer loss {outer}", f"{DAFA}.outer": outer}
    for epochs in (0, 5, 50):
        yield {"name": f"SoKD + fitnet, {epochs} epochs of search", f"{DAFA}.search_epochs": epochs}
