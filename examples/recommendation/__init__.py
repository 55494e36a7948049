"""Active recommendation: which item comes next, learned from each click?"""
