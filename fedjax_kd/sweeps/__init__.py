"""Many runs in one program: hyper-parameters and seeds as one more vectorised axis."""
