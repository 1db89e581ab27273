"""How good a model is and why: metrics, calibration, Grad-CAM, label audit, figures."""
