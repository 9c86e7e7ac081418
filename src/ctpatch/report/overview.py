def draw_overview(windows, gallery):
    raise NotImplementedError
