"""What runs inside a sandbox: a zygote and the leaves it forks. Standard library only."""
